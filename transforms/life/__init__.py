"""Remaining life of a cell from the fade of its capacity so far; pure NumPy.

history    what is kept of a cell: at most 128 points, packed in under 4 kB
features   figures of a history, free of the cell's size and of its number of cycles
answer     what a model's outputs mean: cycles left, interval, knee risk, what is out of domain
"""

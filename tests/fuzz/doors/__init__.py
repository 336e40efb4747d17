"""Every way in for bytes from outside, each as a function that may only refuse, and a fuzzer for it.

`python -m tests.fuzz.doors` changes small inputs that this project made itself and gives them to the
doors, in processes of their own with a limit of time and memory. `doors.py` lists the doors,
`corpus/` keeps inputs that once broke one.
"""

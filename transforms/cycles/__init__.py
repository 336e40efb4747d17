"""Cycles as they end: what each was worth, from the readings of the stream in order.

    rows       which columns of a reading a cycle needs, and readings as arrays
    measure    what each reading adds: intervals, gaps, steps, charge and energy
    swings     the cycles of tests without a cycle number
    totals     sums, means and ends of each cycle
    resistance, ica   the cycle's resistance and its highest peaks of dQ/dV
    ended      which cycles have ended, and what of their readings has to wait
    memory     what a cell's next readings need to know, as tables

The definitions are those of the dbt models, which see the whole record: one test holds both against
each other (tests/transforms/cycles). What needs the record as a whole is answered by what came so far.
"""

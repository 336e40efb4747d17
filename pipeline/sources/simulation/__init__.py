"""The simulated fleet: one file for each step from (seed, equipment, position) to a message.

Random numbers are hashes of these three, never a stream, so that neither block nor batch size nor
the number of workers can change a reading. `fleet` is what others use; it puts the rest together:

    config                               what is simulated
    cell_model, cell_plan, cell_rows     the physics of cells, without noise
    cells, cell_sensors                  the cells' readings in chunks, and how they are measured
    chemistry, step_ageing, step_cell    cells in steps: what they are, how they age, what they do
    step_segments                        their time as pieces of closed form
    protocols, step_life, surroundings   what they are made to do, from cycle to cycle, and where
    step_sampling, step_cells            their readings in chunks
    truth                                what is true of cells, to be compared with what is found
    machines                             the machines' readings in chunks
    text, faults, arrival                JSON, some of it spoiled, in order of arrival
    draws, arrays, parts                 random numbers and types that these share
"""

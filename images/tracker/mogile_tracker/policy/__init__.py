"""Pure decisions of the tracker: where new files go, when copies suffice, what to move, how long to wait.

Nothing here does I/O, reads a clock or draws a random number of its own: state and randomness arrive as arguments, values come
back. So every decision can be tested by table and by property, and the plan that is shown is the plan that is carried out.
"""

"""Judges: what counts as wrong, task by task, told from golden and faulty outputs alone. numpy only.

`judge` says what a judge is, `registry` which there are, `guess` which one fits outputs. One file a task.
"""

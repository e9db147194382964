"""Training: a recipe and a folder of audio become a model.

`loop` is where to start. `recipe` and `plan` say what is asked for, `run` holds all that changes and makes a
step, `streams` cuts the sequences that it sees, `objective` is the loss, `parallel` joins several processes,
`folder` keeps a run on disk, and `events` are what observers are told.
"""

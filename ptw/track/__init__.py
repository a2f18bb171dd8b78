"""Where else do a run's figures go, for teams that look at all their runs in one place?

A tracker is one file here, named as its key of [tracking]: `begin(target, run, known)` opens the run there,
for the first time or again, and gives back a `ptw.track.follow.Tracker`.
"""

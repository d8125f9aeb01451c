"""The cost bench measures what a training step with a learned λ costs, and how exact it is.

A *bench* is a trained model with its batches; a *contender* takes training steps on it; a *group*
is one model at one size, all of whose contenders are measured in one interleaved run.
"""

# Empty, since a process that measures memory runs a module of this package as its main program.
__all__: list[str] = []

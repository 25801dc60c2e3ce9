"""The processes that run user code: templates and the workers forked from them.

Standard library and cloudpickle only. The modules `ring`, `parts` and `jobs` are spoken on both
sides: by these processes and by the supervisor that owns them.
"""

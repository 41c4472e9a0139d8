"""Speed and memory, measured side by side.

:mod:`~aethernet.benchmark.timing` times runtimes within this process, for a release's own record.
:mod:`~aethernet.benchmark.run` gives each file a process of its own, for memory and load time as well.
:mod:`~aethernet.benchmark.parts` times the parts of one network.
"""

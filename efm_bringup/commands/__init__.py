"""One module per `efm` command: `configure(parser)` and `run(args) -> exit status`.

Modules import nothing heavy at the top: what a command needs, its `run` imports.
"""

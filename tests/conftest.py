"""`make test` draws the same examples each time: a commit that passed passes again. `pytest --hypothesis-profile=explore` and `make fuzz` draw others."""

import signal

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile("repeatable")

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C, and so would the processes that tests interrupt

"""Where all tests start from."""

import signal

# A shell has what it starts in the background ignore SIGINT, which processes that tests start would take over.
signal.signal(signal.SIGINT, signal.default_int_handler)

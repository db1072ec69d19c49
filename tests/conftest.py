"""Where all tests start from."""

import signal

from hypothesis import settings

# A shell has what it starts in the background ignore SIGINT, which processes that tests start would take over.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("default", deadline=None, max_examples=25, derandomize=True, print_blob=True)
settings.register_profile("slow", parent=settings.get_profile("default"), max_examples=500)
settings.load_profile("default")

"""Before any library is imported: the tests collect garbage as seldom as the commands do."""

import gc

from musix_runtime.cli.entry import NEW_OBJECTS

gc.set_threshold(NEW_OBJECTS)

"""The user's own program runs again, its FM calls and tools answered from a recording: all of them, or up to a step.

player.py      playback: nothing goes live
forking.py     fork: live from a step on; fork_point.py where a step is, seen from there; overrides.py what is changed
sources.py     the recorded runs that are answered from, and which of them a run of the program is
answers.py     recorded answers and failures as the client would have had them
pinned.py      clock, random numbers and uuids of a playback
"""

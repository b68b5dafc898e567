"""Recorded against replayed.

compare.py      decode by decode: tokens, then times and logprobs
lanes.py        step by step: the recording, how much its replays vary (noise.py), a candidate
divergence.py   where a playback leaves its recording; changes.py what a call asks now against what it asked
"""

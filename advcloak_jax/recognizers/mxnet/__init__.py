"""Recognisers published as MXNet symbol + params files, read and run without MXNet, differentiably."""

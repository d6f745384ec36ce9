// Nothing of its own: where the header that all test programs share is precompiled.

# What doxygen reads instead: the file's sentence on a line of its own, and no inline namespace.
s/::inline LIMEN_ABI//
s,^/// @file  *,/// @file\n/// ,

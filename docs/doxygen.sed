# What doxygen reads instead: the file's sentence on a line of its own, and no inline namespace.
s/::inline LIMEN_ABI//
s,^/// @file  *,/// @file\n/// ,
# Links within a page are GitHub's; doxygen has other anchors.
s/\[\([^]]*\)\](#[^)]*)/\1/g
# Of two files README.md only one can be the first page.
s,\[\([^]]*\)\]([./]*data/README.md),\1,g

// What including everything costs.
#include <limen/limen.hpp>

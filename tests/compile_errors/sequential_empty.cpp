// expect: Sequential: needs at least one layer
#include <limen/compose/sequential.hpp>

limen::Sequential<> model;

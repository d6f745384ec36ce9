// The main of limen_bench: Google Benchmark, told what it measures. The context goes with the
// numbers into the JSON file, where scripts/bench_table.py reads it.

#include <Eigen/Core>
#include <limen/core/config.hpp>
#include <xsimd/xsimd.hpp>

#include <benchmark/benchmark.h>

#define TEXT_OF_VALUE(x) LIMEN_TEXT(x)
#define THREE(a, b, c) TEXT_OF_VALUE(a) "." TEXT_OF_VALUE(b) "." TEXT_OF_VALUE(c)

int main(int argc, char** argv) {
  benchmark::AddCustomContext("limen", limen::version);
  benchmark::AddCustomContext("isa", limen::isa);
#if defined(EIGEN_MAJOR_VERSION) && EIGEN_MAJOR_VERSION >= 5
  benchmark::AddCustomContext("peer:eigen",
                              THREE(EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION, EIGEN_PATCH_VERSION));
#else
  benchmark::AddCustomContext("peer:eigen",
                              THREE(EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION));
#endif
  benchmark::AddCustomContext("peer:xsimd",
                              THREE(XSIMD_VERSION_MAJOR, XSIMD_VERSION_MINOR, XSIMD_VERSION_PATCH));
#if defined(__clang__)
  benchmark::AddCustomContext("compiler", "clang " __clang_version__);
#else
  benchmark::AddCustomContext("compiler", "g++ " __VERSION__);
#endif
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}

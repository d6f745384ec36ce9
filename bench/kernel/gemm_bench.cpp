// y = x wᵀ with weights in panels, packed for the call, and of one row; Eigen beside it on the same
// data; and the two limits of the machine: multiply-adds in registers, and reading.

#include <limen/kernel/gemm.hpp>

#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <limen/core/memory.hpp>
#include <limen/core/random.hpp>
#include <string>

namespace {

using limen::Buffer;
using limen::Index;
using limen::MatrixView;
namespace simd = limen::simd;

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Buffer<float> numbers(Index count) {
  limen::Random random(1);
  Buffer<float> result(count);
  for (float& v : result) v = static_cast<float>(random.uniform(-1, 1));
  return result;
}

void states(benchmark::State& state, double work) {
  state.counters["work"] = work;
  state.counters["threads"] = 1;
}

/// f(x, w, y) for x [M x K], w [N x K], y [M x N].
template <class F>
void run(benchmark::State& state, Index M, Index N, Index K, F f) {
  const Buffer<float> x = numbers(M * K), w = numbers(N * K);
  Buffer<float> y = numbers(M * N);
  auto call = f(MatrixView<const float>{x.data(), M, K, K},
                MatrixView<const float>{w.data(), N, K, K}, MatrixView<float>{y.data(), M, N, N});
  call();
  for (auto _ : state) {
    call();
    benchmark::ClobberMemory();
  }
  states(state, 2.0 * static_cast<double>(M * N) * static_cast<double>(K));
}

auto packed(MatrixView<const float> x, MatrixView<const float> w, MatrixView<float> y) {
  return [=, panels = limen::Panels<float>::pack(w)] {
    limen::product_nt<float>(x, panels.view(), y);
  };
}

auto packing(MatrixView<const float> x, MatrixView<const float> w, MatrixView<float> y) {
  return [=] { limen::product_nt<float>(x, w, y); };
}

auto eigen(MatrixView<const float> x, MatrixView<const float> w, MatrixView<float> y) {
  return [=] {
    const Eigen::Map<const Rows> X(x.data, x.rows, x.cols), W(w.data, w.rows, w.cols);
    Eigen::Map<Rows> Y(y.data, y.rows, y.cols);
    if (x.rows == 1) {  // its matrix times vector, which it would not find by itself
      Y.row(0).transpose().noalias() = W * X.row(0).transpose();
    } else {
      Y.noalias() = X * W.transpose();
    }
  };
}

/// 12 sums in registers, nothing read: what no product can pass.
void multiply_adds(benchmark::State& state) {
  using V = simd::Vec<float>;
  constexpr int chains = 12, repeats = 1000;
  V sum[chains];
  for (int i = 0; i < chains; ++i) sum[i] = V(static_cast<float>(i));
  float factor = 0.5f;
  benchmark::DoNotOptimize(factor);
  const V a(factor);
  for (auto _ : state) {
    for (int r = 0; r < repeats; ++r) {
      LIMEN_UNROLL for (int i = 0; i < chains; ++i) sum[i] = simd::fma(sum[i], a, a);
    }
  }
  for (int i = 1; i < chains; ++i) sum[0] = sum[0] + sum[i];
  float total = simd::reduce_add(sum[0]);
  benchmark::DoNotOptimize(total);
  states(state, 2.0 * chains * repeats * static_cast<double>(simd::lanes<float>));
}

void read(benchmark::State& state, Index bytes) {
  using V = simd::Vec<float>;
  constexpr Index sums = 8, lanes = simd::lanes<float>;
  const Index count = bytes / static_cast<Index>(sizeof(float)) / (sums * lanes) * (sums * lanes);
  const Buffer<float> from = numbers(count);
  for (auto _ : state) {
    V sum[sums];
    LIMEN_UNROLL for (Index i = 0; i < sums; ++i) sum[i] = V(0.f);
    for (Index k = 0; k < count; k += sums * lanes) {
      LIMEN_UNROLL for (Index i = 0; i < sums; ++i) {
        sum[i] = sum[i] + simd::load<V>(from.data() + k + i * lanes);
      }
    }
    for (Index i = 1; i < sums; ++i) sum[0] = sum[0] + sum[i];
    float total = simd::reduce_add(sum[0]);
    benchmark::DoNotOptimize(total);
  }
  states(state, static_cast<double>(count) * sizeof(float));
}

template <class F>
void add(const std::string& name, F f) {
  benchmark::RegisterBenchmark(name.c_str(), f);
}

[[maybe_unused]] const bool registered = [] {
  const Index shapes[][2] = {{64, 64}, {256, 256}, {256, 64}, {768, 768}, {2048, 768}, {2048, 2048}};
  for (const auto& [N, K] : shapes) {
    const std::string size = std::to_string(N) + "x" + std::to_string(K);
    const auto pair = [N = N, K = K](const std::string& name, Index M) {
      add(name, [=](benchmark::State& s) { run(s, M, N, K, packed); });
      add("peer:eigen:" + name, [=](benchmark::State& s) { run(s, M, N, K, eigen); });
    };
    pair("gemv/" + size, 1);
    for (const Index M : {2, 4, 8, 16, 64, 128, 512}) {
      pair("gemm/" + std::to_string(M) + "x" + size, M);
      if (M < 64) continue;
      const std::string name = "gemm.pack/" + std::to_string(M) + "x" + size;
      add(name, [=, N = N, K = K](benchmark::State& s) { run(s, M, N, K, packing); });
      add("peer:eigen:" + name, [=, N = N, K = K](benchmark::State& s) { run(s, M, N, K, eigen); });
    }
  }
  for (const auto& [N, K] : {std::pair<Index, Index>{64, 256}, {64, 2048}, {2048, 64}}) {
    const std::string name = "gemv/" + std::to_string(N) + "x" + std::to_string(K);
    add(name, [N = N, K = K](benchmark::State& s) { run(s, 1, N, K, packed); });
    add("peer:eigen:" + name, [N = N, K = K](benchmark::State& s) { run(s, 1, N, K, eigen); });
  }
  add("limit.fma", multiply_adds);
  for (const Index bytes : {Index{1} << 14, Index{1} << 18, Index{1} << 22, Index{1} << 24}) {
    add("limit.read/" + std::to_string(bytes), [=](benchmark::State& s) { read(s, bytes); });
  }
  return true;
}();

}  // namespace

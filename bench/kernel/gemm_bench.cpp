// Products beside Eigen's on the same data, and the two limits of the machine: multiply-adds in
// registers, and reading.
//
//   gemv/NxK, gemm/MxNxK     y = x wᵀ, weights packed once
//   gemm.pack/MxNxK          y = x wᵀ, weights packed in the call
//   gemm.nn, gemm.tn/MxNxK   y = x w and y += xᵀ z: the two products of a backward pass

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
using In = MatrixView<const float>;
using Out = MatrixView<float>;

Buffer<float> numbers(Index count) {
  limen::Random random(1);
  Buffer<float> result(count);
  for (float& v : result) v = static_cast<float>(random.uniform(-1, 1));
  return result;
}

struct Size {
  Index M, N, K;
  int threads = 1;

  double work() const { return 2.0 * static_cast<double>(M * N) * static_cast<double>(K); }
  std::string columns() const { return std::to_string(N) + "x" + std::to_string(K); }
  std::string text() const { return std::to_string(M) + "x" + columns(); }
  std::string suffix() const { return threads > 1 ? "/threads:" + std::to_string(threads) : ""; }
};

void count(benchmark::State& state, double work, int threads = 1) {
  state.counters["work"] = work;
  state.counters["threads"] = threads;
}

/// f(x, w, y) -> what is timed, for y [M x N]. `down`: which of x and w have K rows.
struct Down {
  bool x = false, w = false;
};
template <class F>
void run(benchmark::State& state, Size s, Down down, F f) {
  const limen::Threads threads(s.threads);
  Eigen::setNbThreads(s.threads);
  const Buffer<float> x = numbers(s.M * s.K), w = numbers(s.N * s.K);
  Buffer<float> y = numbers(s.M * s.N);
  auto call = f(down.x ? In{x.data(), s.K, s.M, s.M} : In{x.data(), s.M, s.K, s.K},
                down.w ? In{w.data(), s.K, s.N, s.N} : In{w.data(), s.N, s.K, s.K},
                Out{y.data(), s.M, s.N, s.N});
  call();
  for (auto _ : state) {
    call();
    benchmark::ClobberMemory();
  }
  count(state, s.work(), s.threads);
}

Eigen::Map<const Rows> map(In x) { return {x.data, x.rows, x.cols}; }
Eigen::Map<Rows> map(Out x) { return {x.data, x.rows, x.cols}; }

auto packed(In x, In w, Out y) {
  return [=, panels = limen::Panels<float>::pack(w)] {
    limen::product_nt<float>(x, panels.view(), y);
  };
}
auto packing(In x, In w, Out y) {
  return [=] { limen::product_nt<float>(x, w, y); };
}
auto nn(In x, In w, Out y) {
  return [=] { limen::product_nn<float>(x, w, y); };
}
auto tn(In x, In w, Out y) {
  return [=] { limen::add_product_tn<float>(x, w, y); };
}

auto eigen(In x, In w, Out y) {
  return [=] {
    if (x.rows == 1) {  // its matrix times vector, which it would not find by itself
      map(y).row(0).transpose().noalias() = map(w) * map(x).row(0).transpose();
    } else {
      map(y).noalias() = map(x) * map(w).transpose();
    }
  };
}
auto eigen_nn(In x, In w, Out y) {
  return [=] { map(y).noalias() = map(x) * map(w); };
}
auto eigen_tn(In x, In w, Out y) {
  return [=] { map(y).noalias() += map(x).transpose() * map(w); };
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
  count(state, 2.0 * chains * repeats * static_cast<double>(simd::lanes<float>));
}

void read(benchmark::State& state, Index bytes) {
  using V = simd::Vec<float>;
  constexpr Index sums = 8, lanes = simd::lanes<float>;
  const Index size = bytes / static_cast<Index>(sizeof(float)) / (sums * lanes) * (sums * lanes);
  const Buffer<float> from = numbers(size);
  for (auto _ : state) {
    V sum[sums];
    LIMEN_UNROLL for (Index i = 0; i < sums; ++i) sum[i] = V(0.f);
    for (Index k = 0; k < size; k += sums * lanes) {
      LIMEN_UNROLL for (Index i = 0; i < sums; ++i) {
        sum[i] = sum[i] + simd::load<V>(from.data() + k + i * lanes);
      }
    }
    for (Index i = 1; i < sums; ++i) sum[0] = sum[0] + sum[i];
    float total = simd::reduce_add(sum[0]);
    benchmark::DoNotOptimize(total);
  }
  count(state, static_cast<double>(size) * sizeof(float));
}

template <class F>
void add(const std::string& name, F f) {
  benchmark::RegisterBenchmark(name.c_str(), f)->UseRealTime();
}
template <class F, class G>
void add_pair(const std::string& family, Size size, Down down, F ours, G peer) {
  const std::string name =
      family + "/" + (family == "gemv" ? size.columns() : size.text()) + size.suffix();
  add(name, [=](benchmark::State& s) { run(s, size, down, ours); });
  add("peer:eigen:" + name, [=](benchmark::State& s) { run(s, size, down, peer); });
}

[[maybe_unused]] const bool registered = [] {
  for (const Index N : {64, 256, 768, 2048}) {
    for (const Index K : {64, 256, 768, 2048}) {
      for (const int threads : {1, 2}) {
        for (const Index M : {1, 2, 4, 8, 16, 64, 128, 512}) {
          const Size size{M, N, K, threads};
          if (threads > 1 && size.work() < 8e6) continue;  // not worth another core
          add_pair(M == 1 ? "gemv" : "gemm", size, {}, packed, eigen);
        }
      }
    }
  }
  for (const Size& size : {Size{1, 64, 64},
                           {1, 256, 256},
                           {1, 768, 64},
                           {1, 768, 768},
                           {1, 2048, 2048},
                           {8, 256, 256}}) {  // too few rows: not packed at all
    add_pair("gemm.pack", size, {}, packing, eigen);
  }
  for (const Size& size : {Size{64, 256, 256},
                           {512, 64, 64},
                           {512, 256, 256},
                           {512, 768, 768},
                           {512, 2048, 768},
                           {512, 768, 2048},
                           {512, 768, 768, 2}}) {
    add_pair("gemm.pack", size, {}, packing, eigen);
    add_pair("gemm.nn", size, {false, true}, nn, eigen_nn);
    add_pair("gemm.tn", size, {true, true}, tn, eigen_tn);
  }
  add("limit.fma", multiply_adds);
  for (const Index n : {64, 256, 768, 2048}) {  // as much as the weights of gemv/NxK
    for (const Index k : {64, 256, 768, 2048}) {
      const Index bytes = n * k * static_cast<Index>(sizeof(float));
      if (n > k) continue;
      add("limit.read/" + std::to_string(bytes), [=](benchmark::State& s) { read(s, bytes); });
    }
  }
  return true;
}();

}  // namespace

#include <limen/attention/kv_cache.hpp>

#include <algorithm>
#include <memory>

#include "../catch.hpp"

using namespace limen;

namespace {

template <class Cache>
void put(Cache& cache, double value) {
  const double k[] = {value, -value}, v[] = {value, value + 0.5};
  REQUIRE(cache.append(k, v));
}

/// Keys of head 0 in the order of `gather`.
template <class Cache>
std::vector<double> held(const Cache& cache) {
  const Index n = cache.held();
  std::vector<double> k(static_cast<std::size_t>(2 * n)), v(k.size()), first;
  const MatrixView<double> keys{k.data(), n, 2, 2}, values{v.data(), n, 2, 2};
  cache.gather(keys, values);
  for (Index i = 0; i < n; ++i) {
    first.push_back(keys.row(i)[0]);
    REQUIRE(keys.row(i)[1] == -keys.row(i)[0]);
    REQUIRE(values.row(i)[1] == values.row(i)[0] + 0.5);
  }
  return first;
}

/// The same by stretches, with the positions they say.
template <class Cache>
std::vector<double> stretched(const Cache& cache) {
  std::array<CacheView<double>, Cache::most_stretches> parts;
  std::vector<double> keys;
  const std::size_t n = cache.stretches(parts);
  for (std::size_t p = 0; p < n; ++p) {
    for (Index j = 0; j < parts[p].size; ++j) {
      keys.push_back(parts[p].keys[j * parts[p].key_row]);
      REQUIRE(keys.back() == static_cast<double>(parts[p].first + j));
    }
  }
  return keys;
}

using Numbers = std::vector<double>;
using Growing = KvCache<KvCacheConfig{.heads = 2, .d_key = 1, .d_value = 1, .capacity = 5}, double>;
using Ring = KvCache<KvCacheConfig{.heads = 2, .d_key = 1, .d_value = 1, .window = 4}, double>;
using Back =
    KvCache<KvCacheConfig{.heads = 2, .d_key = 1, .d_value = 1, .window = 4, .rollback = 2},
            double>;
using First =
    KvCache<KvCacheConfig{.heads = 2, .d_key = 1, .d_value = 1, .window = 3, .sinks = 2}, double>;

}  // namespace

TEST_CASE("A ring holds the last tokens", "[attention][kv_cache]") {
  Ring cache{};
  for (int t = 0; t <= 6; ++t) put(cache, t);
  REQUIRE(cache.keys[0] == 4);  // slots 0 to 3 hold positions 4, 5, 6, 3
  REQUIRE(cache.keys[1] == 5);
  REQUIRE(cache.keys[2] == 6);
  REQUIRE(cache.keys[3] == 3);
  REQUIRE(held(cache) == Numbers{3, 4, 5, 6});
  REQUIRE(stretched(cache) == held(cache));
}

TEST_CASE("First tokens stay in a ring", "[attention][kv_cache]") {
  First cache{};
  put(cache, 0);
  REQUIRE(stretched(cache) == Numbers{0});
  for (int t = 1; t < 12; ++t) {
    put(cache, t);
    Numbers expected;
    for (int j = 0; j <= t; ++j) {
      if (j < 2 || j > t - 3) expected.push_back(j);
    }
    REQUIRE(held(cache) == expected);
    REQUIRE(stretched(cache) == expected);
  }
}

TEST_CASE("Chunks of any size leave what single tokens leave", "[attention][kv_cache]") {
  const auto check = []<class Cache>(Cache) {
    for (Index chunk = 1; chunk < 20; ++chunk) {
      Cache single{}, whole{};
      std::vector<double> k, v;
      for (int t = 0; t < 3; ++t) {
        put(single, t);
        put(whole, t);
      }
      for (int t = 3; t < 3 + chunk; ++t) {
        put(single, t);
        k.insert(k.end(), {double(t), -double(t)});
        v.insert(v.end(), {double(t), t + 0.5});
      }
      REQUIRE(whole.append(MatrixView<const double>{k.data(), chunk, 2, 2},
                           MatrixView<const double>{v.data(), chunk, 2, 2}));
      REQUIRE(whole.seen == single.seen);
      REQUIRE(held(whole) == held(single));
      REQUIRE(stretched(whole) == stretched(single));
    }
  };
  check(Ring{});
  check(Back{});
  check(First{});
}

TEST_CASE("A growing cache refuses what does not fit, and counts it", "[attention][kv_cache]") {
  Growing cache{};
  for (int t = 0; t < 4; ++t) put(cache, t);
  const double k[] = {1, 2, 3, 4};
  REQUIRE_FALSE(
      cache.append(MatrixView<const double>{k, 2, 2, 2}, MatrixView<const double>{k, 2, 2, 2}));
  REQUIRE(cache.seen == 4);
  REQUIRE(cache.refused == 2);
  put(cache, 4);
  REQUIRE_FALSE(cache.append(k, k));
  REQUIRE(held(cache) == Numbers{0, 1, 2, 3, 4});
}

TEST_CASE("A ring takes back as many tokens as it has spare slots", "[attention][kv_cache]") {
  Back cache{};
  REQUIRE_FALSE(cache.truncate(1));
  for (int t = 0; t < 6; ++t) put(cache, t);
  auto young = cache;
  REQUIRE(young.truncate(5));  // nothing has been overwritten yet
  REQUIRE(held(young) == Numbers{0});
  for (int t = 6; t < 11; ++t) put(cache, t);
  REQUIRE_FALSE(cache.truncate(3));
  REQUIRE_FALSE(cache.truncate(-1));
  REQUIRE(cache.truncate(2));
  REQUIRE(held(cache) == Numbers{5, 6, 7, 8});
  REQUIRE_FALSE(cache.truncate(1));  // two from where it has been is all
  put(cache, 9);
  REQUIRE(held(cache) == Numbers{6, 7, 8, 9});
  REQUIRE(cache.truncate(1));
  Growing growing{};
  for (int t = 0; t < 5; ++t) put(growing, t);
  REQUIRE(growing.truncate(5));
  REQUIRE(growing.held() == 0);
}

TEST_CASE("What is saved is what has been written, and nothing else is loaded",
          "[attention][kv_cache]") {
  Back cache{};
  for (int t = 0; t < 3; ++t) put(cache, t);
  REQUIRE(cache.save().size() == 24 + 3 * 4 * sizeof(double));
  for (int t = 3; t < 9; ++t) put(cache, t);
  REQUIRE(cache.truncate(1));
  const auto bytes = cache.save();
  Back other{}, copy{};
  REQUIRE(other.load(bytes));
  REQUIRE(other.save() == bytes);
  REQUIRE(held(other) == held(cache));
  copy_used(cache, copy);
  REQUIRE(copy.save() == bytes);
  REQUIRE(held(copy) == held(cache));

  const auto refused = [&](std::vector<std::byte> wrong) {
    const auto status = other.load(wrong);
    REQUIRE_FALSE(status);
    REQUIRE(status.error().who == "KV cache");
    REQUIRE(other.save() == bytes);
  };
  refused({});
  for (const std::size_t size : {std::size_t{23}, std::size_t{24}, bytes.size() - 1}) {
    refused({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)});
  }
  const auto with_counts = [&](std::int64_t seen, std::int64_t furthest) {
    auto wrong = bytes;
    std::memcpy(wrong.data(), &seen, sizeof seen);
    std::memcpy(wrong.data() + sizeof seen, &furthest, sizeof furthest);
    return wrong;
  };
  refused(with_counts(-1, 9));
  refused(with_counts(10, 9));
  refused(with_counts(6, 9));  // three taken back where two can be
  refused(with_counts(std::int64_t{1} << 62, std::int64_t{1} << 62));
  refused(with_counts(3, 4));  // fewer rows than there are
  Growing full{};
  REQUIRE_FALSE(full.load(with_counts(6, 6)));
}

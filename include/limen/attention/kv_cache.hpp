#pragma once
/// @file  The keys and values of the tokens a stream has seen, as a value of fixed size.
///
///   growing    .capacity tokens, then it is full
///   ring       the last .window of them, for ever
///   with .sinks, the first few are kept besides (Xiao et al., arXiv:2309.17453)
///
///   keys [H][slots][d], values [H][slots][dv]: a head's rows lie back to back, as attention_step
///   reads them. A token at position p < sinks lies in slot p, others in sinks + (p - sinks) mod R.
///
/// Copying forks a stream; `truncate` takes tokens back, in a ring as many as .rollback allows;
/// `copy_used`, `save` and `load` touch only what has been written.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <limen/core/bfloat16.hpp>
#include <limen/core/error.hpp>
#include <limen/core/tensor.hpp>
#include <limen/kernel/attention_decode.hpp>

namespace limen::inline LIMEN_ABI {

struct KvCacheConfig {
  Index heads = 1;     ///< H
  Index d_key = 0;     ///< d
  Index d_value = 0;   ///< dv
  Index capacity = 0;  ///< tokens, if it grows
  Index window = 0;    ///< tokens, if it is a ring
  Index sinks = 0;     ///< first tokens that stay
  Index rollback = 0;  ///< tokens that a ring can take back
};

template <KvCacheConfig C, class Stored>
struct KvCache {
  static_assert(C.heads > 0 && C.d_key > 0 && C.d_value > 0, "KvCache: needs heads and widths");
  static_assert((C.capacity > 0) != (C.window > 0), "KvCache: .capacity or .window, one of them");
  static_assert(C.rollback >= 0 && C.sinks >= 0, "KvCache: .sinks and .rollback are numbers");
  static_assert(C.window > 0 || (C.sinks == 0 && C.rollback == 0),
                "KvCache: a growing cache keeps all tokens and takes back any");

  static constexpr KvCacheConfig config = C;
  static constexpr bool ring = C.window > 0;
  static constexpr Index looks_back = ring ? C.window : C.capacity;  ///< W
  static constexpr Index turn = looks_back + C.rollback;             ///< R
  static constexpr Index slots = C.sinks + turn;

  std::int64_t seen = 0;      ///< tokens, and the position of the next one
  std::int64_t furthest = 0;  ///< the most that `seen` has ever been: what lies in the slots
  std::int64_t refused = 0;   ///< tokens that found the cache full
  Fixed<Stored, C.heads, slots, C.d_key> keys;
  Fixed<Stored, C.heads, slots, C.d_value> values;

  static constexpr Index slot(std::int64_t position) {
    return static_cast<Index>(position < C.sinks ? position
                                                 : C.sinks + (position - C.sinks) % turn);
  }
  bool has_room(std::int64_t tokens) const { return ring || seen + tokens <= C.capacity; }

  /// The first position behind the sinks that is still there for the token at `seen`.
  std::int64_t oldest() const {
    return std::max<std::int64_t>(std::min<std::int64_t>(seen, C.sinks), seen - looks_back);
  }

  /// k [H d] and v [H dv] of the next token. False, and counted, if there is no room.
  template <class Real>
  bool append(const Real* k, const Real* v) noexcept {
    if (!has_room(1)) {
      ++refused;
      return false;
    }
    const Index s = slot(seen);
    for (Index h = 0; h < C.heads; ++h) {
      put(k + h * C.d_key, C.d_key, keys.data() + (h * slots + s) * C.d_key);
      put(v + h * C.d_value, C.d_value, values.data() + (h * slots + s) * C.d_value);
    }
    furthest = std::max(furthest, ++seen);
    return true;
  }

  /// Rows of k [T x H d] and v [T x H dv], all of them or none.
  template <class Real>
  bool append(MatrixView<Real> k, MatrixView<Real> v) noexcept {
    if (!has_room(k.rows)) {
      refused += k.rows;
      return false;
    }
    for (Index t = 0; t < k.rows; ++t) {
      // What the same call would overwrite need not be written.
      if (seen < C.sinks || k.rows - t <= turn) {
        append<Real>(k.row(t), v.row(t));
      } else {
        furthest = std::max(furthest, ++seen);
      }
    }
    return true;
  }

  /// Is what came before the last `tokens` still there?
  bool can_truncate(std::int64_t tokens) const noexcept {
    const std::int64_t left = seen - tokens;
    if (tokens < 0 || left < 0) return false;
    return furthest <= C.sinks + turn || left - looks_back >= furthest - turn;
  }
  /// Takes the last `tokens` back. False, and nothing happens, if that cannot be.
  bool truncate(std::int64_t tokens) noexcept {
    if (!can_truncate(tokens)) return false;
    seen -= tokens;
    return true;
  }

  // ── Reading ────────────────────────────────────────────────────────────────────────────────────

  static constexpr std::size_t most_stretches = 3;

  /// What the token at position seen - 1 may look at, oldest first: the sinks, and the ring in one
  /// or two pieces. Gives how many.
  std::size_t stretches(std::array<CacheView<Stored>, most_stretches>& to) const noexcept {
    std::size_t n = 0;
    if constexpr (C.sinks > 0) to[n++] = stretch(0, std::min<std::int64_t>(seen, C.sinks));
    for (std::int64_t p = oldest(); p < seen;) {
      const std::int64_t end = std::min(seen, p + slots - slot(p));
      to[n++] = stretch(p, end);
      p = end;
    }
    return n;
  }

  /// How many tokens `gather` gives.
  Index held() const {
    return static_cast<Index>(std::min<std::int64_t>(seen, C.sinks) + seen - oldest());
  }

  /// All that is held, oldest first, one token in a row: k [held x H d], v [held x H dv].
  template <class Real>
  void gather(MatrixView<Real> k, MatrixView<Real> v) const noexcept {
    Index row = 0;
    const auto take = [&](std::int64_t p) {
      const Index s = slot(p);
      for (Index h = 0; h < C.heads; ++h) {
        get(keys.data() + (h * slots + s) * C.d_key, C.d_key, k.row(row) + h * C.d_key);
        get(values.data() + (h * slots + s) * C.d_value, C.d_value, v.row(row) + h * C.d_value);
      }
      ++row;
    };
    for (std::int64_t p = 0; p < std::min<std::int64_t>(seen, C.sinks); ++p) take(p);
    for (std::int64_t p = oldest(); p < seen; ++p) take(p);
  }

  // ── Copies that leave out what was never written ───────────────────────────────────────────────

  Index used_slots() const { return slots_of(furthest); }

  friend void copy_used(const KvCache& from, KvCache& to) noexcept {
    to.seen = from.seen;
    to.furthest = from.furthest;
    to.refused = from.refused;
    from.walk(from.used_slots(), [&](std::size_t offset, std::size_t bytes) {
      std::memcpy(reinterpret_cast<std::byte*>(&to) + offset,
                  reinterpret_cast<const std::byte*>(&from) + offset, bytes);
    });
  }

  std::vector<std::byte> save() const {
    const std::int64_t head[3] = {seen, furthest, refused};
    std::vector<std::byte> bytes(saved_bytes(used_slots()));
    std::memcpy(bytes.data(), head, sizeof head);
    std::byte* to = bytes.data() + sizeof head;
    walk(used_slots(), [&](std::size_t offset, std::size_t count) {
      std::memcpy(to, reinterpret_cast<const std::byte*>(this) + offset, count);
      to += count;
    });
    return bytes;
  }

  /// An error unless `save` gave these bytes.
  static Status can_load(std::span<const std::byte> bytes) {
    std::int64_t head[3] = {};
    if (bytes.size() < sizeof head) {
      return Error{"KV cache", "at least 24 bytes", std::to_string(bytes.size())};
    }
    std::memcpy(head, bytes.data(), sizeof head);
    const bool can_be = head[0] >= 0 && head[1] >= head[0] && head[2] >= 0 &&
                        head[1] < std::int64_t{1} << 62 && (ring || head[1] <= C.capacity) &&
                        (head[1] <= C.sinks + turn || head[0] >= head[1] - C.rollback);
    if (!can_be) {
      return Error{"KV cache", "numbers of tokens that can be",
                   std::to_string(head[0]) + " of " + std::to_string(head[1])};
    }
    const std::size_t wanted = saved_bytes(slots_of(head[1]));
    if (bytes.size() == wanted) return {};
    return Error{"KV cache", std::to_string(wanted) + " bytes", std::to_string(bytes.size())};
  }

  /// What `save` gave. Anything else is an error and leaves the cache as it was.
  Status load(std::span<const std::byte> bytes) {
    if (Status status = can_load(bytes); !status) return status;
    std::int64_t head[3];
    std::memcpy(head, bytes.data(), sizeof head);
    seen = head[0];
    furthest = head[1];
    refused = head[2];
    const std::byte* from = bytes.data() + sizeof head;
    walk(used_slots(), [&](std::size_t offset, std::size_t count) {
      std::memcpy(reinterpret_cast<std::byte*>(this) + offset, from, count);
      from += count;
    });
    return {};
  }

 private:
  static constexpr Index slots_of(std::int64_t tokens) {
    return static_cast<Index>(std::min<std::int64_t>(tokens, slots));
  }

  template <class Real>
  static void put(const Real* from, Index n, Stored* to) noexcept {
    for (Index i = 0; i < n; ++i) to[i] = static_cast<Stored>(from[i]);
  }
  template <class Real>
  static void get(const Stored* from, Index n, Real* to) noexcept {
    for (Index i = 0; i < n; ++i) to[i] = static_cast<Real>(from[i]);
  }

  CacheView<Stored> stretch(std::int64_t begin, std::int64_t end) const noexcept {
    return {keys.data() + slot(begin) * C.d_key,
            values.data() + slot(begin) * C.d_value,
            static_cast<Index>(end - begin),
            C.d_key,
            C.d_value,
            slots * C.d_key,
            slots * C.d_value,
            static_cast<Index>(begin)};
  }

  static constexpr std::size_t saved_bytes(Index used) {
    return 3 * sizeof(std::int64_t) +
           static_cast<std::size_t>(C.heads * used * (C.d_key + C.d_value)) * sizeof(Stored);
  }
  /// f(offset in the object, bytes) for the used rows of each head.
  template <class F>
  void walk(Index used, F f) const {
    const auto part = [&](const Stored* first, Index width) {
      for (Index h = 0; h < C.heads; ++h) {
        f(static_cast<std::size_t>(reinterpret_cast<const std::byte*>(first + h * slots * width) -
                                   reinterpret_cast<const std::byte*>(this)),
          static_cast<std::size_t>(used * width) * sizeof(Stored));
      }
    };
    part(keys.data(), C.d_key);
    part(values.data(), C.d_value);
  }
};

}  // namespace limen::inline LIMEN_ABI

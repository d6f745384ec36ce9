#pragma once
/// @file  Which keys a row may look at, where the rule of a layer does not say it all.
///
///   keep [heads][⌈queries / block⌉][⌈keys / block⌉], 0 forbids
///
/// A row that may look at nothing reads zeros.

#include <cstdint>
#include <span>
#include <string>

#include <limen/core/error.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

/// Of one sequence. It views its entries, which must stay where they are while it is used; in
/// training, until the way back.
struct AttentionMask {
  Index queries = 0;                        ///< rows
  Index keys = 0;                           ///< as many, and those that a state holds in front
  std::span<const std::uint8_t> keep = {};  ///< 0 forbids
  Index block = 1;                          ///< an entry is for so many queries by so many keys
  bool by_head = false;                     ///< one for each head of queries; or one for all

  Index of_a_head() const { return blocks(queries) * blocks(keys); }

  /// An error unless it is for so many rows, keys and heads.
  Status fits(Index rows, Index all_keys, Index heads) const {
    if (block < 1) return Error{"attention mask: .block", "1 or more", std::to_string(block)};
    if (queries != rows || keys != all_keys) {
      return Error{"attention mask", size(rows, all_keys), size(queries, keys)};
    }
    const Index wanted = of_a_head() * (by_head ? heads : 1);
    if (static_cast<Index>(keep.size()) == wanted) return {};
    return Error{"attention mask: .keep", std::to_string(wanted) + " entries",
                 std::to_string(keep.size())};
  }

 private:
  Index blocks(Index n) const { return (n + block - 1) / block; }
  static std::string size(Index rows, Index all_keys) {
    return std::to_string(rows) + " queries by " + std::to_string(all_keys) + " keys";
  }
};

}  // namespace limen::inline LIMEN_ABI

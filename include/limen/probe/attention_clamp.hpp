#pragma once
/// @file  Heads of attention held at a pattern: what they look at is given, all else runs.
///
///     AttentionPatterns clean;                                       // record
///     auto look = edit_maps(std::ref(clean));
///     AttentionClamps clamps;                                        // and hold
///     clamps.hold({.layer = 1, .head = 0}, clean);                   as in another run
///     clamps.ablate({.layer = 0, .head = 2});                        the head gives 0
///     clamps.previous_token({.layer = 0, .head = 1}, 0.8);
///     auto edit = edit_maps(std::ref(clamps));
///     Context run{.attention = &edit};
///     clamps.begin(), model.forward(x, ...), clamps.outcome()
///
/// Patterns are in probe/attention_pattern.hpp. First what is held, then what is disallowed, then
/// heads that are ablated or have a pattern: a head has one of these. Rows that a pattern writes
/// must sum to 1. Needs runs without a cache of keys: all queries at once.
///
/// Singh et al., "What needs to go right for an induction head?", arXiv:2404.07129, section 3.

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <limen/attention/editor.hpp>
#include <limen/probe/attention_pattern.hpp>

namespace limen::inline LIMEN_ABI {

struct AttentionHead {
  Index layer = 0, head = 0;
  Index sequence = -1;  ///< -1: all of the batch
};

/// What every head of every layer looked at.
class AttentionPatterns {
 public:
  template <class Real>
  void operator()(Index layer, AttentionMaps<Real>& maps) {
    if (layer == 0) layers_.clear();
    auto& here = layers_.emplace_back();
    heads_ = maps.heads();
    for (Index b = 0; b < maps.sequences(); ++b) {
      for (Index h = 0; h < maps.heads(); ++h) here.push_back(Activations::of(maps(b, h)));
    }
  }

  /// [Tq x Tk], or null.
  const Activations* find(Index layer, Index sequence, Index head) const {
    if (layer < 0 || layer >= static_cast<Index>(layers_.size()) || head < 0 || head >= heads_) {
      return nullptr;
    }
    const auto& here = layers_[static_cast<std::size_t>(layer)];
    const auto at = static_cast<std::size_t>(sequence * heads_ + head);
    return at < here.size() ? &here[at] : nullptr;
  }
  Index layers() const { return static_cast<Index>(layers_.size()); }

 private:
  std::vector<std::vector<Activations>> layers_;
  Index heads_ = 0;
};

class AttentionClamps {
 public:
  using Change = std::function<Status(Activations& P)>;

  /// As in another run, sequence by sequence. `seen` must outlive this.
  void hold(AttentionHead where, const AttentionPatterns& seen) {
    add(Stage::hold, where, [&seen, where](Index b, Activations& P) -> Status {
      const Activations* kept = seen.find(where.layer, b, where.head);
      if (kept == nullptr || kept->rows != P.rows || kept->cols != P.cols) {
        return Error{"held pattern", detail::shape(P.rows, P.cols),
                     kept == nullptr ? "none" : detail::shape(kept->rows, kept->cols)};
      }
      P = *kept;
      return {};
    });
  }
  void disallow(AttentionHead where, Index query, Index key) {
    add(Stage::disallow, where,
        [=](Index, Activations& P) { return limen::disallow(P, query, key); });
  }
  void ablate(AttentionHead where) {
    add(Stage::ablate, where, [](Index, Activations& P) -> Status {
      std::fill(P.values.begin(), P.values.end(), 0.0);
      return {};
    });
  }
  /// Any pattern: rows that it leaves alone stay as they are.
  void pattern(AttentionHead where, Change change) {
    add(Stage::pattern, where,
        [change = std::move(change)](Index, Activations& P) { return change(P); });
  }
  void previous_token(AttentionHead where, double s) {
    pattern(where, [s](Activations& P) { return previous_token_pattern(P, s); });
  }
  void induction(AttentionHead where, std::vector<Index> places, std::vector<int> labels,
                 int answer, double s) {
    pattern(where, [=](Activations& P) { return induction_pattern(P, places, labels, answer, s); });
  }
  void match(AttentionHead where, std::vector<Index> places, Activations items, Direction query,
             double tau) {
    pattern(where, [=](Activations& P) { return match_pattern(P, places, items, query, tau); });
  }
  void clear() { clamps_.clear(); }

  /// A run begins.
  void begin() {
    fault_ = {};
    for (Entry& e : clamps_) e.used = false;
  }
  /// What went wrong in it.
  Status outcome() const {
    if (!fault_) return fault_;
    for (const Entry& e : clamps_) {
      if (!e.used) return Error{name(e.where), "a layer, head and sequence of the run", "no such"};
    }
    return {};
  }

  template <class Real>
  void operator()(Index layer, AttentionMaps<Real>& maps) {
    if (const Status one = check_overlap(); !one) return refuse(one);
    for (const Stage stage : {Stage::hold, Stage::disallow, Stage::ablate, Stage::pattern}) {
      for (Entry& e : clamps_) {
        if (e.stage != stage || e.where.layer != layer) continue;
        for (Index b = 0; b < maps.sequences(); ++b) apply(e, b, maps);
      }
    }
  }

 private:
  enum class Stage { hold, disallow, ablate, pattern };
  struct Entry {
    Stage stage;
    AttentionHead where;
    std::function<Status(Index b, Activations& P)> change;
    bool used = false;
  };

  void add(Stage stage, AttentionHead where, std::function<Status(Index, Activations&)> change) {
    clamps_.push_back({stage, where, std::move(change)});
  }
  void refuse(const Status& why) {
    if (fault_) fault_ = why;
  }
  static std::string name(const AttentionHead& at) {
    return "head " + std::to_string(at.head) + " of attention layer " + std::to_string(at.layer);
  }

  template <class Real>
  void apply(Entry& e, Index b, AttentionMaps<Real>& maps) {
    if (e.where.head < 0 || e.where.head >= maps.heads()) return;
    if (e.where.sequence >= 0 && e.where.sequence != b) return;
    e.used = true;
    const auto p = maps(b, e.where.head);
    const Activations before = Activations::of(p);
    Activations P = before;
    if (const Status well = e.change(b, P); !well) return refuse(well);
    if (P.rows != before.rows || P.cols != before.cols) {
      return refuse(Error{name(e.where), detail::shape(before.rows, before.cols),
                          detail::shape(P.rows, P.cols)});
    }
    if (e.stage == Stage::pattern) {
      if (const Status sums = check_rows(e, before, P); !sums) return refuse(sums);
    }
    for (Index i = 0; i < p.rows; ++i) {
      for (Index j = 0; j < p.cols; ++j) p(i, j) = static_cast<Real>(P(i, j));
    }
  }

  static Status check_rows(const Entry& e, const Activations& before, const Activations& P) {
    for (Index i = 0; i < P.rows; ++i) {
      double sum = 0, least = 0;
      bool same = true;
      for (Index j = 0; j < P.cols; ++j) {
        sum += P(i, j);
        least = std::min(least, P(i, j));
        same = same && P(i, j) == before(i, j);
      }
      if (same || (std::abs(sum - 1) <= 1e-6 && least >= 0)) continue;
      return Error{name(e.where) + ", row " + std::to_string(i), "numbers from 0 on with sum 1",
                   "sum " + std::to_string(sum) + ", least " + std::to_string(least)};
    }
    return {};
  }

  /// Two ablations or patterns of one head.
  Status check_overlap() const {
    const auto last = [](const Entry& e) {
      return e.stage == Stage::ablate || e.stage == Stage::pattern;
    };
    for (std::size_t i = 0; i < clamps_.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        const AttentionHead &a = clamps_[i].where, &b = clamps_[j].where;
        if (!last(clamps_[i]) || !last(clamps_[j]) || a.layer != b.layer || a.head != b.head ||
            (a.sequence >= 0 && b.sequence >= 0 && a.sequence != b.sequence)) {
          continue;
        }
        return Error{name(a), "one ablation or pattern", "two"};
      }
    }
    return {};
  }

  std::vector<Entry> clamps_;
  Status fault_;
};

}  // namespace limen::inline LIMEN_ABI

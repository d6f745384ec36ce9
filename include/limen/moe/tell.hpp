#pragma once
/// @file  What the listener of a run hears of a router: moe/measures.hpp counts it.
///
///   "scores"    [T x E]  before the choice, of routers that have logits
///   "routing"   [T x E]  weights, 0 where an expert was not chosen
///   "choices"   [T x K]  numbers of experts, -1 where a slot is not used
///
/// They are copies: changing them changes nothing. Without a listener this is a comparison.

#include <limen/core/batch.hpp>
#include <limen/moe/router.hpp>

namespace limen::inline LIMEN_ABI::detail {

inline bool listens(const Context* context) {
  return context != nullptr && context->taps != nullptr;
}

template <class Real, Index E>
void tell_scores(const Context* context, const Sequence<Real, E>& z) {
  if (!listens(context)) return;
  auto told = z;
  context->taps->at("scores", told.matrix());
}

template <Index E, class Real, Index K>
void tell_choice(const Context* context, const Assignment<Real, K>& chosen) {
  if (!listens(context)) return;
  const Index rows = chosen.weight.rows();
  auto routing = Sequence<Real, E>::zeros(rows);
  Sequence<Real, K> choices(rows);
  for (Index i = 0; i < rows * K; ++i) {
    const Index e = chosen.expert[i];
    choices.data()[i] = static_cast<Real>(e);
    if (e >= 0 && e < E) routing(i / K, e) += chosen.weight.data()[i];
  }
  context->taps->at("routing", routing.matrix());
  context->taps->at("choices", choices.matrix());
}

}  // namespace limen::inline LIMEN_ABI::detail

#pragma once
// A recurrent layer that says what it was told: at step n, row n of its table, whatever x is.

#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>

#include <algorithm>

template <limen::Index N, limen::Index O, class S = double>
struct Scripted {
  static constexpr limen::Index in = 1, out = O;
  using Scalar = limen::real_of<S>;
  template <class T>
  using with_scalar = Scripted<N, O, T>;

  limen::Tensor<Scalar, N, O> table;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("table", l.table...);
  }

  struct State {
    limen::Fixed<Scalar, 1> n;
  };
  struct Cache {};

  limen::Sequence<Scalar, O> forward(limen::SequenceView<Scalar, 1> x,
                                     limen::Batch<State> batch) const {
    limen::Sequence<Scalar, O> y(x.rows());
    for (limen::Index b = 0; b < batch.count(); ++b) {
      State rest{};
      State& state = batch.carries() ? batch[b] : rest;
      for (limen::Index t = batch.begin(b); t < batch.end(b, x.rows()); ++t) {
        const auto s = step(x.row(t), state);
        std::copy_n(s.data(), O, y.row_data(t));
      }
    }
    return y;
  }
  limen::Vector<Scalar, O> step(limen::VectorView<Scalar, 1>, State& state) const noexcept {
    limen::Vector<Scalar, O> y;
    std::copy_n(table.data() + static_cast<limen::Index>(state.n[0]) * O, O, y.data());
    state.n[0] += 1;
    return y;
  }
  limen::Sequence<Scalar, O> forward(limen::Sequence<Scalar, 1> x, limen::Batch<State> batch,
                                     Cache&) const {
    return forward(limen::SequenceView<Scalar, 1>(x), batch);
  }
  limen::Sequence<Scalar, 1> backward(limen::SequenceView<Scalar, O> dy, limen::Batch<State> batch,
                                      const Cache&, Scripted& gradient) const {
    for (limen::Index b = 0; b < batch.count(); ++b) {
      for (limen::Index t = batch.begin(b); t < batch.end(b, dy.rows()); ++t) {
        for (limen::Index o = 0; o < O; ++o) gradient.table(t - batch.begin(b), o) += dy(t, o);
      }
    }
    return limen::Sequence<Scalar, 1>::zeros(dy.rows());
  }
};

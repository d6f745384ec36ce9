#pragma once
/// @file  What went wrong, in one line: who, wanted, found.
///
///     blocks.3.weight: wanted [1536 x 16] float32, found [1536 x 8] float16 in model.safetensors
///
/// Functions whose input comes from outside (files) return a Result. Faces of layers, which return
/// their output, call `fail`: it throws limen::Exception; built with -fno-exceptions it keeps the
/// error for `last_error()`, tells the handler, and the face returns an output without rows. Either
/// way nothing has been written before the check.

#include <optional>
#include <string>
#include <utility>

#include <limen/core/config.hpp>

#if LIMEN_EXCEPTIONS
#include <stdexcept>
#endif

namespace limen::inline LIMEN_ABI {

struct Error {
  std::string who;     ///< the tensor, argument or file
  std::string wanted;  ///< empty where there is nothing to compare with
  std::string found;

  std::string message() const {
    return wanted.empty() ? who + ": " + found : who + ": wanted " + wanted + ", found " + found;
  }
};

#if LIMEN_EXCEPTIONS
struct Exception : std::runtime_error {
  explicit Exception(Error e) : std::runtime_error(e.message()), error(std::move(e)) {}
  Error error;
};
#endif

/// The latest error of this thread that could not be thrown.
inline std::optional<Error>& last_error() {
  static thread_local std::optional<Error> error;
  return error;
}

using ErrorHandler = void (*)(const Error&);

/// Called by `fail` where exceptions are off; null does nothing. Set it before threads start.
inline ErrorHandler& error_handler() {
  static ErrorHandler handler = nullptr;
  return handler;
}

/// Throws; without exceptions: reports and returns.
LIMEN_NOINLINE inline void fail(Error error) {
#if LIMEN_EXCEPTIONS
  throw Exception(std::move(error));
#else
  last_error() = std::move(error);
  if (error_handler() != nullptr) error_handler()(*last_error());
#endif
}

/// A value, or the error that stood in its way.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}      // NOLINT: a value is a success
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: an error is a failure

  explicit operator bool() const { return value_.has_value(); }
  const Error& error() const { return *error_; }

  /// The value; if there is none, `fail`s, and without exceptions gives a default one.
  T value() && {
    if (!value_) {
      fail(*error_);
      return T{};
    }
    return std::move(*value_);
  }
  T& operator*() { return *value_; }
  T* operator->() { return &*value_; }

 private:
  std::optional<T> value_;
  std::optional<Error> error_;
};

/// Success, or the error that stood in its way.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::move(error)) {}  // NOLINT: an error is a failure

  explicit operator bool() const { return !error_.has_value(); }
  const Error& error() const { return *error_; }

  /// Does nothing on success, `fail`s otherwise.
  void value() const {
    if (error_) fail(*error_);
  }

 private:
  std::optional<Error> error_;
};

}  // namespace limen::inline LIMEN_ABI

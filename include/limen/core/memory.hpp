#pragma once
/// @file  Memory that is taken once and used again.
///
/// A Buffer is an aligned array of numbers, uninitialised, that returns to a free list of its
/// thread when it dies. The sizes of a run repeat, so after the first one `forward` and `backward`
/// find every buffer in the list: they allocate nothing. Sizes are rounded up to four classes per
/// octave, so a list serves neighbouring sizes and wastes a fifth at most.
///
/// From 2 MiB on a buffer lies in large pages, where Linux gives them to who asks: what streams
/// through weights then finds its way faster.
///
/// A buffer may be freed by another thread; it then serves that thread. What a thread still holds
/// goes back to the system when it ends, or by `release_pool()`.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>
#include <utility>

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace limen::inline LIMEN_ABI {

/// Where every buffer and tensor starts: a cache line, and the widest vector.
inline constexpr std::size_t alignment = 64;

namespace detail {

/// Size classes: 64 bytes times 1, 1.25, 1.5, 1.75, 2, 2.5, ...
struct SizeClass {
  unsigned index;
  std::size_t bytes;
};

constexpr SizeClass size_class(std::size_t bytes) {
  const std::size_t lines = bytes <= 256 ? 4 : (bytes + 63) / 64;
  const unsigned octave = static_cast<unsigned>(std::bit_width(lines - 1));  // lines <= 2^octave
  const std::size_t quarter = std::size_t{1} << (octave >= 3 ? octave - 3 : 0);
  const std::size_t quarters = (lines + quarter - 1) / quarter;  // 5..8, or 4 for the smallest
  return {octave * 4 + static_cast<unsigned>(quarters - 5 + (octave < 3 ? 4 : 0)),
          quarters * quarter * 64};
}

/// From here on blocks are aligned to it.
inline constexpr std::size_t large_page = std::size_t{2} << 20;

constexpr std::align_val_t alignment_of(SizeClass c) {
  return std::align_val_t{c.bytes < large_page ? alignment : large_page};
}

struct Block {  // the first bytes of a free block
  Block* next;
};

struct Pool {
  static constexpr unsigned classes = 256;
  Block* free[classes];
  std::size_t taken;  ///< how often the system was asked
  enum class Phase : unsigned char {
    fresh,   ///< holds nothing, nobody empties it
    open,    ///< will be emptied when the thread ends
    closed,  ///< the thread is ending: nothing is kept any more
  } phase;
};

inline thread_local constinit Pool pool{};

inline void release(Pool& p) {
  constexpr unsigned large = size_class(large_page).index;
  for (unsigned c = 0; c < Pool::classes; ++c) {
    while (Block* block = p.free[c]) {
      p.free[c] = block->next;
      ::operator delete(block, std::align_val_t{c < large ? alignment : large_page});
    }
  }
}

/// Pool itself has no destructor, so that buffers with a longer life find it alive; this one
/// empties it when the thread ends.
struct PoolCloser {
  ~PoolCloser() {
    release(pool);
    pool.phase = Pool::Phase::closed;
  }
};

LIMEN_NOINLINE inline void open_pool() {
  static thread_local PoolCloser closer;
  static_cast<void>(closer);
  pool.phase = Pool::Phase::open;
}

LIMEN_NOINLINE inline void* take_from_system(SizeClass c) {
  if (pool.phase == Pool::Phase::fresh) open_pool();
  ++pool.taken;
  void* const memory = ::operator new(c.bytes, alignment_of(c));
#if defined(MADV_HUGEPAGE)
  if (c.bytes >= large_page) ::madvise(memory, c.bytes, MADV_HUGEPAGE);  // a wish: may be refused
#endif
  return memory;
}

inline void* take(std::size_t bytes) {
  const SizeClass c = size_class(bytes);
  if (Block* block = pool.free[c.index]) {
    pool.free[c.index] = block->next;
    return block;
  }
  return take_from_system(c);
}

inline void give_back(void* memory, std::size_t bytes) noexcept {
  const SizeClass c = size_class(bytes);
  if (pool.phase == Pool::Phase::closed) {
    ::operator delete(memory, alignment_of(c));
    return;
  }
  if (pool.phase == Pool::Phase::fresh) open_pool();  // a thread that only frees keeps blocks too
  pool.free[c.index] = ::new (memory) Block{pool.free[c.index]};
}

}  // namespace detail

/// Gives this thread's unused buffers back to the system.
inline void release_pool() { detail::release(detail::pool); }

/// How many buffers this thread has asked the system for: constant once warm.
inline std::size_t pool_allocations() { return detail::pool.taken; }

/// `size` numbers, not initialised; moves, does not copy.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(Index size) : size_(size) {
    if (size > 0) data_ = static_cast<T*>(detail::take(bytes()));
  }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) detail::give_back(data_, bytes());
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  Index size() const { return size_; }
  T& operator[](Index i) { return data_[i]; }
  const T& operator[](Index i) const { return data_[i]; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }

 private:
  std::size_t bytes() const { return static_cast<std::size_t>(size_) * sizeof(T); }

  T* data_ = nullptr;
  Index size_ = 0;
};

}  // namespace limen::inline LIMEN_ABI

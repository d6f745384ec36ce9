#pragma once
/// @file  Files, read at a position and replaced as a whole.
///
/// A file that is saved again must not be lost when the disk is full or the power fails: the new
/// one is written beside it, flushed to the disk, and then takes its name in one step.

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <limen/core/config.hpp>
#include <limen/core/error.hpp>

#if defined(__unix__) || defined(__APPLE__)
#define LIMEN_POSIX 1
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#else
#define LIMEN_POSIX 0
#endif

namespace limen::inline LIMEN_ABI {

namespace detail {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

inline std::string why() {
  return errno != 0 ? std::generic_category().message(errno) : "an unknown failure";
}

/// 0 on success.
inline int seek(std::FILE* file, std::int64_t offset, int from) {
#if LIMEN_POSIX
  return fseeko(file, static_cast<off_t>(offset), from);
#else
  return _fseeki64(file, offset, from);
#endif
}

inline std::int64_t tell(std::FILE* file) {
#if LIMEN_POSIX
  return static_cast<std::int64_t>(ftello(file));
#else
  return _ftelli64(file);
#endif
}

}  // namespace detail

/// Bytes that can be read at any position: a file, or memory that somebody keeps alive.
class InputFile {
 public:
  static Result<InputFile> open(const std::string& path) {
    InputFile input;
    input.name_ = std::string(last_part(path));
#if LIMEN_POSIX
    struct stat what;
    if (::stat(path.c_str(), &what) == 0 && S_ISDIR(what.st_mode)) {
      return Error{path, "a file that can be read", "a folder"};
    }
#endif
    errno = 0;
    input.file_.reset(std::fopen(path.c_str(), "rb"));
    if (input.file_ == nullptr) return Error{path, "a file that can be read", detail::why()};
    // Reads are large, and what is read must be what the file holds now.
    std::setvbuf(input.file_.get(), nullptr, _IONBF, 0);
    if (detail::seek(input.file_.get(), 0, SEEK_END) != 0) {
      return Error{path, "a file with an end", detail::why()};
    }
    const std::int64_t size = detail::tell(input.file_.get());
    if (size < 0) return Error{path, "a file with an end", detail::why()};
    input.size_ = static_cast<std::uint64_t>(size);
    return input;
  }

  static InputFile in_memory(std::span<const std::byte> bytes, std::string name) {
    InputFile input;
    input.name_ = std::move(name);
    input.memory_ = bytes.data();
    input.size_ = bytes.size();
    return input;
  }

  const std::string& name() const { return name_; }
  std::uint64_t size() const { return size_; }

  /// Says no if the file ends before `count` bytes. One reader at a time.
  bool read(std::uint64_t offset, void* to, std::uint64_t count) const {
    if (offset > size_ || count > size_ - offset) return false;
    if (count == 0) return true;
    const auto n = static_cast<std::size_t>(count);
    if (file_ == nullptr) {
      std::memcpy(to, memory_ + offset, n);
      return true;
    }
    return detail::seek(file_.get(), static_cast<std::int64_t>(offset), SEEK_SET) == 0 &&
           std::fread(to, 1, n, file_.get()) == n;
  }

 private:
  static std::string_view last_part(std::string_view path) {
    return path.substr(path.find_last_of('/') + 1);
  }

  std::string name_;
  std::unique_ptr<std::FILE, detail::CloseFile> file_;
  const std::byte* memory_ = nullptr;
  std::uint64_t size_ = 0;
};

/// Writes beside `path`, in `path`.partial, and renames on `commit`. Without one, the file at
/// `path` stays what it was.
class OutputFile {
 public:
  static Result<OutputFile> open(const std::string& path) {
    OutputFile output;
    output.path_ = path;
#if LIMEN_POSIX
    struct stat old;
    if (::stat(path.c_str(), &old) == 0 && !S_ISREG(old.st_mode)) {
      return Error{path, "a file to replace", "something else of this name"};
    }
#endif
    errno = 0;
    output.file_.reset(std::fopen(output.partial().c_str(), "wb"));
    if (output.file_ == nullptr) return Error{path, "a place to write", detail::why()};
    return output;
  }

  OutputFile(OutputFile&&) noexcept = default;
  OutputFile& operator=(OutputFile&&) noexcept = default;
  ~OutputFile() {
    if (file_ == nullptr) return;
    file_.reset();
    std::remove(partial().c_str());
  }

  Status write(const void* from, std::size_t count) {
    errno = 0;
    if (count == 0 || std::fwrite(from, 1, count, file_.get()) == count) return {};
    return lost();
  }

  Status commit() {
    errno = 0;
    if (std::fflush(file_.get()) != 0) return lost();
#if LIMEN_POSIX
    if (::fsync(::fileno(file_.get())) != 0 && errno != EINVAL) return lost();
#endif
    if (std::fclose(file_.release()) != 0) return discard();
    if (std::rename(partial().c_str(), path_.c_str()) != 0) return discard();
#if LIMEN_POSIX
    // The new name, too, is on the disk only when its folder is.
    const std::size_t slash = path_.find_last_of('/');
    const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
    if (const int f = ::open(folder.c_str(), O_RDONLY); f >= 0) {
      ::fsync(f);
      ::close(f);
    }
#endif
    return {};
  }

 private:
  OutputFile() = default;

  std::string partial() const { return path_ + ".partial"; }
  Status lost() const { return Error{path_, "all of it written", detail::why()}; }
  Status discard() const {
    Status status = lost();
    std::remove(partial().c_str());
    return status;
  }

  std::string path_;
  std::unique_ptr<std::FILE, detail::CloseFile> file_;
};

}  // namespace limen::inline LIMEN_ABI

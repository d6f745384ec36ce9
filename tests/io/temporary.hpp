#pragma once
// A folder for the files of one test.

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <unistd.h>

class Temporary {
 public:
  Temporary() {
    static int count = 0;
    folder_ = std::filesystem::temp_directory_path() /
              ("limen-test-" + std::to_string(::getpid()) + '-' + std::to_string(count++));
    std::filesystem::create_directories(folder_);
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  ~Temporary() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

 private:
  std::filesystem::path folder_;
};

inline std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_content(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

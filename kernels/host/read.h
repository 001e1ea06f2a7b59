// Rows of bytes from open files into an array: what a batch of images takes from its shards. Not for the kernels: it
// calls the system.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace pcn_host {
namespace {

// Where reading ended early: the row, -1 for nowhere, and the system's error, 0 where the file ended.
struct ReadEnd {
  long row;
  int error;
};

// Rows of `out`, of so many bytes, each from its offset in its file. The system copies from its page cache, so
// that a file that has become shorter is an error, where a memory map of it would end the process.
ReadEnd read_rows(long rows, long bytes, const int* files, const long* offsets, unsigned char* out) {
#ifdef POSIX_FADV_WILLNEED
  for (long row = 0; rows > 1 && row < rows; ++row)  // so that a disk sees all that is wanted at once
    posix_fadvise(files[row], offsets[row], bytes, POSIX_FADV_WILLNEED);
#endif
  for (long row = 0; row < rows; ++row) {
    unsigned char* to = out + row * bytes;
    for (long done = 0; done < bytes;) {
      const ssize_t got = pread(files[row], to + done, bytes - done, offsets[row] + done);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return {row, got < 0 ? errno : 0};
      done += got;
    }
  }
  return {-1, 0};
}

}  // namespace
}  // namespace pcn_host

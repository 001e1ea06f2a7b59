// control.cpp: settings and errors
#include "emulation/control.h"

#include <pthread.h>

#include <cstdlib>
#include <mutex>
#include <stdexcept>

#if defined(PCN_RACECHECK)
#include "emulation/racecheck.h"
#elif defined(PCN_COUNT)
#include "emulation/access_counts.h"
#endif

namespace pcn {
namespace emulation {
namespace {

const char* const ORDERS[] = {"fwd", "rev", "dfs", "rand", "mix"};
const char* const ASYNCS[] = {"late", "eager", "rand"};

template <class E, size_t N>
E parse(const char* const (&names)[N], const std::string& text, const char* argument) {
  for (size_t i = 0; i < N; ++i) {
    if (text == names[i]) return static_cast<E>(i);
  }
  std::string all;
  for (const char* name : names) all += (all.empty() ? "" : ", ") + std::string(name);
  throw std::invalid_argument(std::string(argument) + " must be one of " + all + ", got '" + text + "'");
}

Config checked(const std::string& order, uint64_t seed, const std::string& async, int workers, int image,
               const char* const* names) {
  Config c;
  c.order = parse<Order>(ORDERS, order, names[0]);
  c.seed = seed;
  c.async = parse<Async>(ASYNCS, async, names[1]);
  if (workers < 0 || workers > 16) {
    throw std::invalid_argument(std::string(names[2]) + " must be 0 (one per core) to 16, got " +
                                std::to_string(workers));
  }
  if (image != 0 && (image < 50 || image > 199)) {
    throw std::invalid_argument(std::string(names[3]) +
                                " must be a compute capability such as 80, or 0 for no code, got " +
                                std::to_string(image));
  }
  c.workers = workers;
  c.image = image;
  return c;
}

std::string environment(const char* name, const char* otherwise) {
  const char* value = getenv(name);
  return value && *value ? value : otherwise;
}

Config from_environment() {
  static const char* const NAMES[] = {"PYCONVNET_EMULATOR_ORDER", "PYCONVNET_EMULATOR_ASYNC",
                                      "PYCONVNET_EMULATOR_WORKERS", "PYCONVNET_EMULATOR_IMAGE"};
  const std::string seed = environment("PYCONVNET_EMULATOR_SEED", "1");
  char* end;
  const uint64_t seed_value = strtoull(seed.c_str(), &end, 10);
  if (*end) throw std::invalid_argument("PYCONVNET_EMULATOR_SEED must be a number, got '" + seed + "'");
  const auto number = [](const char* name, const char* otherwise) {
    const std::string text = environment(name, otherwise);
    char* behind;
    const long value = strtol(text.c_str(), &behind, 10);
    if (*behind) throw std::invalid_argument(std::string(name) + " must be a number, got '" + text + "'");
    return static_cast<int>(value);
  };
  return checked(environment("PYCONVNET_EMULATOR_ORDER", "fwd"), seed_value,
                 environment("PYCONVNET_EMULATOR_ASYNC", "late"), number(NAMES[2], "0"),
                 number(NAMES[3], "90"), NAMES);
}

std::mutex config_mutex;
bool configured = false;
Config current;
[[maybe_unused]] const int fork_handlers =
    pthread_atfork([] { config_mutex.lock(); }, [] { config_mutex.unlock(); }, [] { config_mutex.unlock(); });

std::string& own_error() {
  thread_local std::string text;
  return text;
}

}  // namespace

Config config() {
  std::lock_guard<std::mutex> lock(config_mutex);
  if (!configured) {
    current = from_environment();
    configured = true;
  }
  return current;
}

void configure(const std::string& order, uint64_t seed, const std::string& async, int workers, int image) {
  static const char* const NAMES[] = {"order", "async_", "workers", "image"};
  const Config c = checked(order, seed, async, workers, image, NAMES);
  std::lock_guard<std::mutex> lock(config_mutex);
  current = c;
  configured = true;
}

const char* order_name(Order order) { return ORDERS[static_cast<int>(order)]; }
const char* async_name(Async async) { return ASYNCS[static_cast<int>(async)]; }

std::string take_error() {
  std::string text;
  text.swap(own_error());
  return text;
}
void set_error(const std::string& text) { own_error() = text; }

const char* flavour() { return PCN_EMULATOR_FLAVOUR; }

#if defined(PCN_RACECHECK)
void register_global(const void* pointer, size_t bytes, bool writable) {
  racecheck::register_range(pointer, bytes, writable);
}
void unregister_global(const void* pointer) { racecheck::unregister_range(pointer); }
#elif defined(PCN_COUNT)
void register_global(const void* pointer, size_t bytes, bool) { counts::register_range(pointer, bytes); }
void unregister_global(const void* pointer) { counts::unregister_range(pointer); }
#else
void register_global(const void*, size_t, bool) {}
void unregister_global(const void*) {}
#endif

}  // namespace emulation
}  // namespace pcn

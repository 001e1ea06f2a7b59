// fiber.cpp: stacks and the switch between them
//
// On x86-64 a switch is fifteen instructions; elsewhere ucontext, ten times slower. It ends in a jump:
// processors predict a return by calls that the other stack has not made. Fibers never change OS thread.
#include "emulation/executor.h"

#include <sys/mman.h>

#include <cstdlib>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__) && !defined(PCN_UCONTEXT)
#define PCN_UCONTEXT
#endif
#ifdef PCN_UCONTEXT
#include <ucontext.h>
#endif

namespace pcn {
namespace emulation {
namespace {

constexpr size_t PAGE = 4096;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t STACK_BYTES = 256 << 10;
#else
constexpr size_t STACK_BYTES = 128 << 10;
#endif

}  // namespace

#ifndef PCN_UCONTEXT
extern "C" void pcn_emulation_switch(void** save, void* to) __attribute__((visibility("hidden")));
asm(R"(
.text
.globl pcn_emulation_switch
.hidden pcn_emulation_switch
.type pcn_emulation_switch,@function
pcn_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
.size pcn_emulation_switch,.-pcn_emulation_switch
)");
#endif

// Tells ASan where the stack is that was left; it learns the main fiber's bounds that way.
static void finish_switch([[maybe_unused]] void* fake_stack) {
#ifdef __SANITIZE_ADDRESS__
  const void* bottom;
  size_t bytes;
  __sanitizer_finish_switch_fiber(fake_stack, &bottom, &bytes);
  if (worker->previous == &worker->main) {
    worker->main.stack = static_cast<char*>(const_cast<void*>(bottom));
    worker->main.stack_bytes = bytes;
  }
#endif
}

void switch_to(Fiber* to) {
  Fiber* from = worker->current;
  if (from == to) return;
  worker->previous = from;
  worker->current = to;
  context = &to->context;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&from->extra, to->stack, to->stack_bytes);
#endif
#ifdef PCN_UCONTEXT
  swapcontext(static_cast<ucontext_t*>(from->stack_pointer), static_cast<ucontext_t*>(to->stack_pointer));
#else
  pcn_emulation_switch(&from->stack_pointer, to->stack_pointer);
#endif
  finish_switch(from->extra);
}

static void fiber_start() {
  finish_switch(nullptr);
  fiber_main();
}

void prime_fiber(Fiber* f, [[maybe_unused]] size_t index) {
  f->in_thread = false;
  f->waits_for = nullptr;
  f->extra = nullptr;
  f->copies.clear();
  f->groups.clear();
  f->stores.clear();
  f->store_groups.clear();
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(f->stack, f->stack_bytes);
#endif
#ifdef PCN_UCONTEXT
  if (!f->stack_pointer) f->stack_pointer = new ucontext_t;
  auto* uc = static_cast<ucontext_t*>(f->stack_pointer);
  getcontext(uc);
  uc->uc_stack.ss_sp = f->stack;
  uc->uc_stack.ss_size = f->stack_bytes;
  uc->uc_link = nullptr;
  makecontext(uc, fiber_start, 0);
#else
  // Staggered tops: with equal page offsets every stack's hot lines would fall into the same cache sets.
  const size_t colour = (index * 5 % 64) * 64;
  const uintptr_t top = (reinterpret_cast<uintptr_t>(f->stack) + f->stack_bytes - colour) & ~uintptr_t(63);
  void** sp = reinterpret_cast<void**>(top);
  *--sp =
      nullptr;  // the return address of fiber_start, which never returns; also aligns the stack as at a call
  *--sp = reinterpret_cast<void*>(fiber_start);
  for (int i = 0; i < 6; ++i) *--sp = nullptr;
  f->stack_pointer = sp;
#endif
}

Fiber* take_fiber() {
  Worker& w = *worker;
  if (!w.idle.empty()) {
    Fiber* f = w.idle.back();
    w.idle.pop_back();
    return f;
  }
  void* map = mmap(nullptr, PAGE + STACK_BYTES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED || mprotect(map, PAGE, PROT_NONE) != 0) {
    if (map != MAP_FAILED) munmap(map, PAGE + STACK_BYTES);
    fail("out of memory for the stacks of %u threads", w.threads);
  }
  auto* f = new Fiber;
  f->stack = static_cast<char*>(map) + PAGE;  // above the guard page
  f->stack_bytes = STACK_BYTES;
  prime_fiber(f, w.fibers.size());
  w.fibers.push_back(f);
  return f;
}

void enter_main_fiber() {
  Worker& w = *worker;
#ifdef PCN_UCONTEXT
  if (!w.main.stack_pointer) w.main.stack_pointer = new ucontext_t;
#endif
  w.current = &w.main;
}

}  // namespace emulation
}  // namespace pcn

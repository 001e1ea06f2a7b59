// decode.h: from a statement to an instruction: the forms there are, and what they ask of their operands
#pragma once
#include <functional>

#include "machine.h"

namespace ptx {

// A statement being decoded: its modifiers are taken one by one, and what is left over is an unknown form.
class Form {
 public:
  Form(class Decoder& decoder, const Statement& statement);

  const std::string& opcode() const { return statement.op[0]; }
  // Whether the modifier is there; takes it.
  bool take(const std::string& modifier);
  // Takes the first modifier that is in the list; "" where none is.
  std::string take_any(std::initializer_list<const char*> modifiers);
  // Takes and returns the next modifier; "" where there is none.
  std::string take_next();
  const std::string& peek(size_t i = 0) const;
  // Takes the last modifier, a type.
  std::string take_type();
  void arguments(size_t least, size_t most = 0);  // how many there must be
  [[noreturn]] void unknown() const;
  [[noreturn]] void fail(const std::string& what) const;

  // Operands, checked against the width the form gives them.
  Operand destination(const Arg& arg, int bits, bool wider = false);
  Operand source(const Arg& arg, int bits, bool wider = false);
  Operand real_source(const Arg& arg, const std::string& type);
  Operand any_source(const Arg& arg, const std::string& type, bool wider = false);
  Operand predicate(const Arg& arg);  // a source; constants too
  Operand predicate_destination(const Arg& arg);
  Operand* list(const std::vector<Operand>& operands);
  // An address: base register (or the constant 0) to in.a, the rest to in.imm, the width of the base to
  // `wide`.
  void address(const Arg& arg, Space space, Instr& in);
  int64_t immediate(const Arg& arg) const;
  int label(const Arg& arg) const;  // the index of its instruction
  bool is_64(const Arg& arg) const;

  void uses_proxies();  // the kernel's writes to shared memory need fences

  class Decoder& decoder;
  const Statement& statement;
  const std::vector<Arg>& args;

  bool done() const { return left_.empty(); }

 private:
  std::vector<std::string> left_;
};

constexpr uint32_t WIDE_ADDRESS = 1u << 31;  // Instr::flags: in.a is a double

using Decode = std::function<void(Form&, Instr&)>;

// The decoders of all opcodes, by the word before the first dot.
const std::map<std::string, Decode>& opcodes();

// What the files that implement them add.
void add_integer(std::map<std::string, Decode>& table);
void add_bits(std::map<std::string, Decode>& table);
void add_float(std::map<std::string, Decode>& table);
void add_compare(std::map<std::string, Decode>& table);
void add_convert(std::map<std::string, Decode>& table);
void add_move(std::map<std::string, Decode>& table);
void add_access(std::map<std::string, Decode>& table);
void add_atomic(std::map<std::string, Decode>& table);
void add_control(std::map<std::string, Decode>& table);
void add_warp(std::map<std::string, Decode>& table);
void add_matrix(std::map<std::string, Decode>& table);
void add_copy(std::map<std::string, Decode>& table);
void add_mbarrier(std::map<std::string, Decode>& table);
void add_bulk(std::map<std::string, Decode>& table);
void add_products(std::map<std::string, Decode>& table);

// fence.proxy and fence.mbarrier_init (mbarrier.cpp).
void decode_proxy_fence(Form& form, Instr& in);

// Decodes a function; throws Fault that names the first unknown form.
std::unique_ptr<Code> decode(const Text& text, const Function& function,
                             const std::map<std::string, Global>& globals);

// Lays out the shared variables a function names, and its local ones (decode.cpp; also for KernelInfo).
void lay_out(const Text& text, const Function& function, Code& code);

// Gives registers that are never alive together one row (liveness.cpp): rows[register] within its class.
struct Rows {
  std::vector<uint32_t> of;
  uint32_t count[3] = {0, 0, 0};
};
Rows allocate_rows(const Text& text, const Function& function);

// "wgmma.fence must be used to order register accesses between wgmma.mma_async and other operations": throws Fault
// where a product's sums or registers of A are written after the last fence before it, as far as no label lies between
// (liveness.cpp).
void check_fences(const Text& text, const Function& function);

}  // namespace ptx

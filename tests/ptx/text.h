// text.h: a module's text as statements, with names resolved and instructions not yet looked at
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "executor.h"

namespace ptx {

enum class Space : uint8_t { kGeneric, kGlobal, kShared, kLocal, kParam, kConst };

// A variable of a state space.
struct Variable {
  std::string name;
  Space space = Space::kGlobal;
  size_t bytes = 0, align = 1;
  bool dynamic = false;  // extern shared array without extent
  std::vector<uint8_t> init;
  int line = 0;
};

enum class RegisterClass : uint8_t { kPredicate, kWord, kDouble };

struct Register {
  std::string name;
  RegisterClass kind = RegisterClass::kWord;
  int bits = 32;  // 1 for predicates
};

struct Arg {
  enum Kind : uint8_t { kRegister, kInteger, kReal, kSymbol, kSpecial, kAddress, kVector, kLabel, kSink };
  Kind kind = kSink;
  bool negated = false;  // !p
  int reg = -1;          // kRegister; kAddress: its base, -1 where it is a symbol or a number
  int64_t integer = 0;   // kInteger; kAddress: its offset
  uint64_t real = 0;     // kReal: the bits
  int real_bits = 0;     //        32, 64; 0: written in decimal, and `value` holds it
  double value = 0;
  std::string name;             // kSymbol, kSpecial, kLabel; kAddress: base symbol
  std::vector<Arg> items;       // kVector; kAddress: coordinates
  std::shared_ptr<Arg> second;  // the p of r|p
};

struct Statement {
  std::vector<std::string> op;  // "ld", "global", "u32"
  int guard = -1;
  bool guard_negated = false;
  std::vector<Arg> args;
  int line = 0;
};

struct Function {
  KernelInfo info;
  bool entry = false;
  std::vector<Register> registers;
  std::vector<Statement> body;
  std::map<std::string, int> labels;       // to indices of statements
  std::map<std::string, Variable> locals;  // .local and .shared variables declared inside
  std::vector<std::string> local_order;
};

struct Text {
  std::string name;
  std::vector<std::string> lines;
  int target = 0;
  std::vector<Variable> variables;                 // in their order
  std::map<std::string, const Variable*> by_name;  // of `variables`
  std::map<std::string, std::unique_ptr<Function>> functions;
};

// Throws Fault with the line where the text is not understood.
std::unique_ptr<Text> parse_text(const std::string& text, const std::string& name);

[[noreturn]] void fail_at(const Text& text, int line, const std::string& what);

// Bits of a fundamental type, "f32" to 32, "pred" to 1; 0: no such type.
int type_bits(const std::string& type);

}  // namespace ptx

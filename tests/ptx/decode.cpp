// decode.cpp: a function's statements to instructions
#include "decode.h"

#include <algorithm>
#include <cmath>

namespace ptx {

constexpr uint32_t CONSTANT = 1u << 31;

class Decoder {
 public:
  Decoder(const Text& t, const Function& f, const std::map<std::string, Global>& g)
      : text(t), function(f), globals(g), rows(allocate_rows(t, f)), code(std::make_unique<Code>()) {
    code->text = &t;
    code->function = &f;
    code->predicates = rows.count[0];
    code->words = rows.count[1];
    code->doubles = rows.count[2];
    lay_out(t, f, *code);
  }

  Operand constant(uint64_t value, bool wide) {
    auto& known = wide ? double_index_ : word_index_;
    const auto found = known.find(value);
    if (found != known.end()) return {CONSTANT | found->second};
    uint32_t index = 0;
    if (wide) {
      index = static_cast<uint32_t>(code->double_constants.size() / LANES);
      code->double_constants.insert(code->double_constants.end(), LANES, value);
    } else {
      index = static_cast<uint32_t>(code->word_constants.size() / LANES);
      code->word_constants.insert(code->word_constants.end(), LANES, static_cast<uint32_t>(value));
    }
    known[value] = index;
    return {CONSTANT | index};
  }

  // The address of a variable in its own space; false: none of that name.
  bool address_of(const std::string& name, Space* space, uint64_t* address) const {
    for (const auto& object : code->shared) {
      if (object.name == name) return *space = Space::kShared, *address = object.address, true;
    }
    for (const Parameter& p : function.info.params) {
      if (p.name == name) return *space = Space::kParam, *address = p.offset, true;
    }
    uint64_t local = LOCAL_BASE;
    for (const std::string& one : function.local_order) {
      const Variable& v = function.locals.at(one);
      if (v.space != Space::kLocal) continue;
      local = (local + v.align - 1) / v.align * v.align;
      if (one == name) return *space = Space::kLocal, *address = local, true;
      local += v.bytes;
    }
    const auto global = globals.find(name);
    if (global == globals.end()) return false;
    *space = global->second.constant ? Space::kConst : Space::kGlobal;
    *address = reinterpret_cast<uintptr_t>(global->second.pointer);
    return true;
  }

  const Text& text;
  const Function& function;
  const std::map<std::string, Global>& globals;
  Rows rows;
  std::unique_ptr<Code> code;

 private:
  std::map<uint64_t, uint32_t> word_index_, double_index_;
};

// ---- forms --------------------------------------------------------------------------------------

Form::Form(Decoder& d, const Statement& s)
    : decoder(d), statement(s), args(s.args), left_(s.op.begin() + 1, s.op.end()) {}

bool Form::take(const std::string& modifier) {
  const auto found = std::find(left_.begin(), left_.end(), modifier);
  if (found == left_.end()) return false;
  left_.erase(found);
  return true;
}
std::string Form::take_any(std::initializer_list<const char*> modifiers) {
  for (const char* m : modifiers) {
    if (take(m)) return m;
  }
  return "";
}
std::string Form::take_next() {
  if (left_.empty()) return "";
  const std::string m = left_.front();
  left_.erase(left_.begin());
  return m;
}
const std::string& Form::peek(size_t i) const {
  static const std::string none;
  return i < left_.size() ? left_[i] : none;
}
std::string Form::take_type() {
  if (left_.empty() || !type_bits(left_.back())) unknown();
  const std::string t = left_.back();
  left_.pop_back();
  return t;
}
void Form::arguments(size_t least, size_t most) {
  if (args.size() < least || args.size() > std::max(least, most)) {
    fail("takes " + std::to_string(least) + " operands, not " + std::to_string(args.size()));
  }
}
void Form::fail(const std::string& what) const { fail_at(decoder.text, statement.line, what); }
void Form::unknown() const {
  std::string name;
  for (const std::string& part : statement.op) name += (name.empty() ? "" : ".") + part;
  fail("unknown form '" + name + "'");
}

namespace {
std::string of_bits(int bits) { return std::to_string(bits) + " bits"; }
}  // namespace

Operand Form::destination(const Arg& arg, int bits, bool wider) {
  if (arg.kind == Arg::kSink) {  // `_`: a row nobody reads
    return {bits == 64 ? decoder.code->doubles : decoder.code->words};
  }
  if (arg.kind != Arg::kRegister) fail("a register expected as destination");
  const Register& r = decoder.function.registers[static_cast<size_t>(arg.reg)];
  if (bits == 8) bits = 16, wider = true;
  const int width = r.bits == 8 ? 16 : r.bits;
  if (r.kind == RegisterClass::kPredicate || (wider ? width < bits : width != bits)) {
    fail("'" + arg.name + "' has " + of_bits(r.bits) + ", the instruction wants " + of_bits(bits));
  }
  return {decoder.rows.of[static_cast<size_t>(arg.reg)]};
}

Operand Form::source(const Arg& arg, int bits, bool wider) {
  if (arg.kind == Arg::kRegister) {
    if (arg.negated) fail("'!' before a register that is no predicate");
    return destination(arg, bits, wider);
  }
  if (arg.kind == Arg::kInteger) {
    uint64_t v = static_cast<uint64_t>(arg.integer);
    if (bits == 16) v &= 0xffff;
    if (bits == 32) v &= 0xffffffff;
    return decoder.constant(v, bits == 64);
  }
  if (arg.kind == Arg::kSymbol) {
    Space space;
    uint64_t address = 0;
    if (!decoder.address_of(arg.name, &space, &address)) fail("unknown name '" + arg.name + "'");
    return decoder.constant(address + static_cast<uint64_t>(arg.integer), bits == 64);
  }
  if (arg.kind == Arg::kReal && arg.real_bits == bits) return decoder.constant(arg.real, bits == 64);
  fail("a register or a constant of " + of_bits(bits) + " expected");
}

Operand Form::real_source(const Arg& arg, const std::string& type) {
  const int bits = type_bits(type);
  if (arg.kind == Arg::kReal && arg.real_bits == 0) {
    uint64_t v = arg.real;
    if (bits == 32) {
      const float f = static_cast<float>(arg.value);
      uint32_t u;
      std::memcpy(&u, &f, 4);
      v = u;
    }
    return decoder.constant(v, bits == 64);
  }
  if (arg.kind == Arg::kInteger) fail("an integer where a floating-point number is expected");
  return source(arg, bits);
}

Operand Form::any_source(const Arg& arg, const std::string& type, bool wider) {
  if (arg.kind == Arg::kReal) return real_source(arg, type);
  return source(arg, type_bits(type), wider);
}

Operand Form::predicate(const Arg& arg) {
  if (arg.kind == Arg::kInteger) return {CONSTANT | (arg.integer != 0)};
  return predicate_destination(arg);
}
Operand Form::predicate_destination(const Arg& arg) {
  if (arg.kind == Arg::kSink) return {decoder.code->predicates};
  if (arg.kind != Arg::kRegister ||
      decoder.function.registers[static_cast<size_t>(arg.reg)].kind != RegisterClass::kPredicate) {
    fail("a predicate expected");
  }
  return {decoder.rows.of[static_cast<size_t>(arg.reg)]};
}

Operand* Form::list(const std::vector<Operand>& operands) {
  auto owned = std::make_unique<Operand[]>(operands.size());
  std::copy(operands.begin(), operands.end(), owned.get());
  decoder.code->lists.push_back(std::move(owned));
  return decoder.code->lists.back().get();
}

void Form::address(const Arg& arg, Space space, Instr& in) {
  if (arg.kind != Arg::kAddress) fail("an address expected");
  in.space = static_cast<uint8_t>(space);
  in.imm = arg.integer;
  in.flags |= WIDE_ADDRESS;
  if (arg.reg >= 0) {
    const Register& r = decoder.function.registers[static_cast<size_t>(arg.reg)];
    if (r.bits != 64 && (r.bits != 32 || space == Space::kGeneric || space == Space::kGlobal)) {
      fail("'" + arg.name + "' is too narrow for an address of this space");
    }
    if (r.bits == 32) in.flags &= ~WIDE_ADDRESS;
    in.a = {decoder.rows.of[static_cast<size_t>(arg.reg)]};
    return;
  }
  in.a = decoder.constant(0, true);
  if (arg.name.empty()) return;
  Space found;
  uint64_t address = 0;
  if (!decoder.address_of(arg.name, &found, &address)) fail("unknown name '" + arg.name + "'");
  if (found != space && space != Space::kGeneric) fail("'" + arg.name + "' is not in this state space");
  if (space == Space::kGeneric && found != Space::kGlobal && found != Space::kConst) {
    fail("'" + arg.name + "' is no generic address");
  }
  in.imm += static_cast<int64_t>(address);
}

int64_t Form::immediate(const Arg& arg) const {
  if (arg.kind != Arg::kInteger) fail("a constant expected");
  return arg.integer;
}
void Form::uses_proxies() { decoder.code->proxies = true; }
int Form::label(const Arg& arg) const {
  const auto found = decoder.function.labels.find(arg.name);
  if (found == decoder.function.labels.end()) fail("unknown label '" + arg.name + "'");
  return found->second;
}
bool Form::is_64(const Arg& arg) const {
  return arg.kind == Arg::kRegister && decoder.function.registers[static_cast<size_t>(arg.reg)].bits == 64;
}

// ---- functions ----------------------------------------------------------------------------------

const std::map<std::string, Decode>& opcodes() {
  static const std::map<std::string, Decode> table = [] {
    std::map<std::string, Decode> t;
    for (auto add :
         {add_integer, add_bits, add_float, add_compare, add_convert, add_move, add_access, add_atomic,
          add_control, add_warp, add_matrix, add_copy, add_mbarrier, add_bulk, add_products}) {
      add(t);
    }
    return t;
  }();
  return table;
}

namespace {

// add.f32 stands under "add.f", add.bf16 under "add.h", and.pred under "and.p", all else under the bare word.
const Decode* find_decode(const Statement& s) {
  const auto& table = opcodes();
  const std::string& last = s.op.back();
  std::string key = s.op[0];
  if (s.op.size() > 1) {
    if (last == "f32" || last == "f64") key += ".f";
    if (last == "f16" || last == "bf16" || last == "f16x2" || last == "bf16x2") key += ".h";
    if (last == "pred") key += ".p";
  }
  auto found = table.find(key);
  if (found == table.end()) found = table.find(s.op[0]);
  return found == table.end() ? nullptr : &found->second;
}

void names_in(const Arg& arg, const std::function<void(const std::string&)>& f) {
  if (arg.kind == Arg::kSymbol || (arg.kind == Arg::kAddress && arg.reg < 0)) f(arg.name);
  for (const Arg& item : arg.items) names_in(item, f);
}

}  // namespace

void lay_out(const Text& text, const Function& function, Code& code) {
  std::vector<std::string> named;
  for (const Statement& s : function.body) {
    for (const Arg& arg : s.args) names_in(arg, [&](const std::string& name) { named.push_back(name); });
  }
  std::sort(named.begin(), named.end());
  std::vector<const Variable*> shared;
  for (const Variable& v : text.variables) {
    if (v.space == Space::kShared && std::binary_search(named.begin(), named.end(), v.name))
      shared.push_back(&v);
  }
  uint64_t local = LOCAL_BASE;
  for (const std::string& name : function.local_order) {
    const Variable& v = function.locals.at(name);
    if (v.space == Space::kShared) shared.push_back(&v);
    if (v.space == Space::kLocal) local = (local + v.align - 1) / v.align * v.align + v.bytes;
  }
  code.local_bytes = local - LOCAL_BASE;
  uint64_t end = SHARED_BASE, align = 16;
  for (const Variable* v : shared) {
    if (v->dynamic) {
      align = std::max<uint64_t>(align, v->align);
      continue;
    }
    end = (end + v->align - 1) / v->align * v->align;
    code.shared.push_back({v->name, end, v->bytes, false});
    end += v->bytes;
  }
  code.static_end = end;
  end = (end + align - 1) / align * align;
  if (end % (2 * align) == 0 && align < 1024) end += align;  // no better aligned than the module asks for
  code.dynamic_begin = end;
  for (const Variable* v : shared) {
    if (v->dynamic) code.shared.push_back({v->name, end, 0, true});
  }
}

std::unique_ptr<Code> decode(const Text& text, const Function& function,
                             const std::map<std::string, Global>& globals) {
  Decoder decoder(text, function, globals);
  Code& code = *decoder.code;
  check_fences(text, function);
  for (const Statement& s : function.body) {
    Form form(decoder, s);
    Instr in;
    in.line = s.line;
    in.index = static_cast<uint32_t>(code.instrs.size());
    if (s.guard >= 0) {
      if (function.registers[static_cast<size_t>(s.guard)].kind != RegisterClass::kPredicate) {
        form.fail("the guard is no predicate");
      }
      in.guard = static_cast<int32_t>(decoder.rows.of[static_cast<size_t>(s.guard)]);
      in.guard_negated = s.guard_negated;
    }
    const Decode* found = find_decode(s);
    if (!found) form.unknown();
    (*found)(form, in);
    if (!form.done() || !in.run) form.unknown();
    code.instrs.push_back(in);
  }
  Instr end;  // a function may end without ret
  end.line = function.body.empty() ? function.info.line : function.body.back().line;
  end.index = static_cast<uint32_t>(code.instrs.size());
  end.run = [](Warp& w, const Instr&) { w.leave(w.active); };
  code.instrs.push_back(end);
  code.defined.assign(std::max(code.word_constants.size(), code.double_constants.size()) / LANES + 2, ALL);
  return std::move(decoder.code);
}

}  // namespace ptx

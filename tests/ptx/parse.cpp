// parse.cpp: PTX text to statements
#include <cstdlib>
#include <cstring>
#include <functional>
#include <sstream>

#include "lexer.h"
#include "text.h"

namespace ptx {

void fail_at(const Text& text, int line, const std::string& what) {
  std::string source;
  if (line >= 1 && line <= static_cast<int>(text.lines.size())) source = text.lines[line - 1];
  const size_t begin = source.find_first_not_of(" \t");
  source = begin == std::string::npos ? "" : source.substr(begin);
  throw Fault(text.name + ":" + std::to_string(line) + ": " + what + " [" + source + "]");
}

int type_bits(const std::string& t) {
  static const std::map<std::string, int> bits = {
      {"pred", 1},    {"b8", 8},    {"u8", 8},   {"s8", 8},   {"b16", 16}, {"u16", 16}, {"s16", 16},
      {"f16", 16},    {"bf16", 16}, {"b32", 32}, {"u32", 32}, {"s32", 32}, {"f32", 32}, {"f16x2", 32},
      {"bf16x2", 32}, {"tf32", 32}, {"b64", 64}, {"u64", 64}, {"s64", 64}, {"f64", 64}, {"b128", 128}};
  const auto found = bits.find(t);
  return found == bits.end() ? 0 : found->second;
}

namespace {

class Parser {
 public:
  Parser(Text& text, const std::string& source) : text_(text), tokens_(tokens(text, source)) {}

  void module() {
    while (peek().kind != Token::kEnd) {
      const std::string word = next().text;
      if (word == ".version" || word == ".address_size") {
        next();
      } else if (word == ".target") {
        target();
      } else if (word == ".visible" || word == ".weak" || word == ".common" || word == ";") {
      } else if (word == ".extern") {
        extern_ = true;
        continue;
      } else if (word == ".entry" || word == ".func") {
        function(word == ".entry");
      } else if (word == ".global" || word == ".const" || word == ".shared") {
        variables(word, nullptr);
      } else if (word == ".file") {
        while (peek().kind == Token::kNumber || peek().kind == Token::kString || is(",")) next();
      } else if (word == ".section") {
        skip_braces();
      } else {
        fail("unknown directive '" + word + "'");
      }
      extern_ = false;
    }
  }

 private:
  // ---- tokens ----
  const Token& peek(int ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  const Token& next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool is(const std::string& mark, int ahead = 0) const {
    return peek(ahead).kind != Token::kString && peek(ahead).text == mark;
  }
  bool accept(const std::string& mark) {
    if (!is(mark)) return false;
    next();
    return true;
  }
  void expect(const std::string& mark) {
    if (!accept(mark)) fail("'" + mark + "' expected, not '" + peek().text + "'");
  }
  [[noreturn]] void fail(const std::string& what) const {
    fail_at(text_, tokens_[at_ ? at_ - 1 : 0].line, what);
  }
  std::string word() {
    if (peek().kind != Token::kWord) fail("name expected, not '" + peek().text + "'");
    return next().text;
  }
  int64_t integer() {
    const bool negative = accept("-");
    if (peek().kind != Token::kNumber) fail("number expected, not '" + peek().text + "'");
    const uint64_t v = unsigned_of(next().text);
    return static_cast<int64_t>(negative ? 0 - v : v);
  }
  uint64_t unsigned_of(std::string t) {
    if (!t.empty() && (t.back() == 'U' || t.back() == 'u')) t.pop_back();
    char* end = nullptr;
    const bool binary = t.size() > 2 && t[0] == '0' && (t[1] == 'b' || t[1] == 'B');
    const uint64_t v = binary ? std::strtoull(t.c_str() + 2, &end, 2) : std::strtoull(t.c_str(), &end, 0);
    if (*end) fail("'" + t + "' is no integer");
    return v;
  }
  void skip_braces() {
    while (!is("{")) next();
    int depth = 0;
    do {
      depth += is("{");
      depth -= is("}");
      if (next().kind == Token::kEnd) fail("'}' missing");
    } while (depth);
  }
  void target() {
    do {
      const std::string name = word();
      if (name.compare(0, 3, "sm_") == 0) text_.target = std::atoi(name.c_str() + 3);
    } while (accept(","));
  }

  // ---- variables ----
  // After ".global" and the like: [.align N] .type name[N][N] [= init] {, name ...};
  void variables(const std::string& space, Function* function) {
    Variable v;
    v.space = space == ".const"    ? Space::kConst
              : space == ".shared" ? Space::kShared
              : space == ".local"  ? Space::kLocal
                                   : Space::kGlobal;
    int lanes = 1, bits = 0;
    while (peek().text[0] == '.') {
      const std::string w = next().text;
      if (w == ".align") {
        v.align = static_cast<size_t>(integer());
      } else if (w == ".v2" || w == ".v4") {
        lanes = w[2] - '0';
      } else if (w == ".attribute") {
        while (!accept(")")) next();
      } else if (type_bits(w.substr(1))) {
        bits = type_bits(w.substr(1));
      } else {
        fail("unknown '" + w + "' in a variable's declaration");
      }
    }
    const size_t element = static_cast<size_t>(bits / 8) * lanes;
    v.align = std::max(v.align, element);
    do {
      Variable one = v;
      one.line = peek().line;
      one.name = word();
      one.bytes = element;
      while (accept("[")) {
        if (accept("]")) {
          one.dynamic = true, one.bytes = 0;
        } else {
          one.bytes *= static_cast<size_t>(integer());
          expect("]");
        }
      }
      if (accept("=")) initialiser(one, bits / 8);
      if (one.dynamic && !(extern_ && one.space == Space::kShared)) fail("'" + one.name + "' has no extent");
      if (extern_ && !one.dynamic) fail("'" + one.name + "' is of another module: linking is not known");
      if (function) {
        function->local_order.push_back(one.name);
        function->locals[one.name] = one;
      } else {
        text_.variables.push_back(one);
      }
    } while (accept(","));
    expect(";");
  }
  void initialiser(Variable& v, int bytes) {
    const auto put = [&] {
      const bool negative = accept("-");
      Arg a = number();
      uint64_t bits = a.kind == Arg::kReal ? a.real : static_cast<uint64_t>(a.integer);
      if (negative) bits = a.kind == Arg::kReal ? bits ^ (uint64_t{1} << (bytes * 8 - 1)) : 0 - bits;
      const auto* p = reinterpret_cast<const uint8_t*>(&bits);
      v.init.insert(v.init.end(), p, p + bytes);
    };
    const std::function<void()> list = [&] {
      if (!accept("{")) return put();
      if (accept("}")) return;
      do list();
      while (accept(","));
      expect("}");
    };
    list();
    if (v.init.size() > v.bytes) fail("'" + v.name + "' has more initial values than elements");
  }

  // ---- functions ----
  void parameters(Function& f) {
    if (accept(")")) return;
    do {
      expect(".param");
      Parameter p;
      size_t element = 0;
      while (peek().text[0] == '.') {
        const std::string w = next().text;
        if (w == ".align") {
          p.align = static_cast<size_t>(integer());
        } else if (type_bits(w.substr(1))) {
          element = static_cast<size_t>(type_bits(w.substr(1)) / 8);
        } else if (w != ".ptr" && w != ".global" && w != ".const" && w != ".shared" && w != ".local") {
          fail("unknown '" + w + "' in a parameter's declaration");
        }
      }
      p.name = word();
      p.bytes = element;
      if (accept("[")) {
        p.bytes = is("]") ? 0 : element * static_cast<size_t>(integer());
        expect("]");
      }
      p.align = std::max(p.align, element);
      p.offset = (f.info.param_bytes + p.align - 1) / p.align * p.align;
      f.info.param_bytes = p.offset + p.bytes;
      f.info.params.push_back(p);
    } while (accept(","));
    expect(")");
  }

  void function(bool entry) {
    auto f = std::make_unique<Function>();
    f->entry = entry;
    if (accept("(")) {  // a function's result
      while (!accept(")")) next();
    }
    f->info.line = peek().line;
    f->info.name = word();
    f->info.target = text_.target;
    if (accept("(")) parameters(*f);
    uint32_t threads = 0;
    while (!is("{") && !is(";")) {
      const std::string w = next().text;
      if (w == ".maxntid" || w == ".reqntid") {
        uint32_t product = static_cast<uint32_t>(integer());
        while (accept(",")) product *= static_cast<uint32_t>(integer());
        threads = threads ? std::min(threads, product) : product;
      } else if (w == ".minnctapersm" || w == ".maxnreg" || w == ".maxnctapersm") {
        const auto value = static_cast<uint32_t>(integer());
        if (w == ".minnctapersm") f->info.min_blocks = value;
      } else if (w == ".pragma") {
        next();
        expect(";");
      } else if (w != ".noreturn") {
        fail("unknown directive '" + w + "' of a function");
      }
    }
    if (threads) f->info.max_threads = threads;
    if (accept(";")) return;  // a declaration
    expect("{");
    scopes_.assign(1, {});
    block(*f);
    text_.functions[f->info.name] = std::move(f);
  }

  void block(Function& f) {
    for (;;) {
      if (accept("}")) {
        scopes_.pop_back();
        if (scopes_.empty()) return;
      } else if (accept("{")) {
        scopes_.emplace_back();
      } else if (accept(";")) {
      } else if (accept(".reg")) {
        registers(f);
      } else if (is(".local") || is(".shared")) {
        const std::string space = next().text;
        variables(space, &f);
      } else if (accept(".pragma")) {
        next();
        expect(";");
      } else if (accept(".loc")) {
        const int line = peek().line;
        while (peek().line == line) next();
      } else if (peek().kind == Token::kWord && is(":", 1)) {
        const std::string label = next().text;
        next();
        if (!f.labels.emplace(label, static_cast<int>(f.body.size())).second)
          fail("label '" + label + "' twice");
      } else if (peek().kind == Token::kEnd) {
        fail("'}' missing");
      } else {
        f.body.push_back(statement(f));
      }
    }
  }

  void registers(Function& f) {
    const std::string type = word().substr(1);
    const int bits = type_bits(type);
    if (!bits || bits > 64) fail("registers of type '" + type + "' are not known");
    const auto kind = bits == 1    ? RegisterClass::kPredicate
                      : bits == 64 ? RegisterClass::kDouble
                                   : RegisterClass::kWord;
    const auto add = [&](const std::string& name) {
      scopes_.back()[name] = static_cast<int>(f.registers.size());
      f.registers.push_back({name, kind, bits});
    };
    do {
      const std::string name = word();
      if (accept("<")) {
        const int64_t n = integer();
        for (int64_t i = 0; i < n; ++i) add(name + std::to_string(i));
        expect(">");
      } else {
        add(name);
      }
    } while (accept(","));
    expect(";");
  }

  // ---- statements ----
  int find_register(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      const auto found = scope->find(name);
      if (found != scope->end()) return found->second;
    }
    return -1;
  }
  Statement statement(Function&) {
    Statement s;
    s.line = peek().line;
    if (accept("@")) {
      s.guard_negated = accept("!");
      const std::string name = word();
      s.guard = find_register(name);
      if (s.guard < 0) fail("unknown register '" + name + "'");
    }
    std::stringstream parts(word());
    for (std::string part; std::getline(parts, part, '.');) s.op.push_back(part);
    while (!is(";")) {
      s.args.push_back(argument());
      if (!accept(",") && !is(";")) fail("',' or ';' expected, not '" + peek().text + "'");
    }
    next();
    return s;
  }
  Arg number() {
    Arg a;
    const std::string t = next().text;
    if (t.size() > 2 && t[0] == '0' && std::strchr("fFdD", t[1])) {
      a.kind = Arg::kReal;
      a.real_bits = t[1] == 'f' || t[1] == 'F' ? 32 : 64;
      a.real = std::strtoull(t.c_str() + 2, nullptr, 16);
    } else if (t.find('.') != std::string::npos) {
      a.kind = Arg::kReal;
      a.value = std::strtod(t.c_str(), nullptr);
      std::memcpy(&a.real, &a.value, 8);
    } else {
      a.kind = Arg::kInteger;
      a.integer = static_cast<int64_t>(unsigned_of(t));
    }
    return a;
  }
  Arg argument() {
    Arg a;
    if (accept("!")) {
      a = argument();
      a.negated = !a.negated;
      return a;
    }
    if (accept("-")) {
      a = number();
      a.integer = static_cast<int64_t>(0 - static_cast<uint64_t>(a.integer));
      a.value = -a.value;
      if (a.kind == Arg::kReal) a.real ^= uint64_t{1} << (a.real_bits == 32 ? 31 : 63);
      return a;
    }
    if (accept("{")) {
      a.kind = Arg::kVector;
      do a.items.push_back(argument());
      while (accept(","));
      expect("}");
      return a;
    }
    if (accept("[")) return address();
    if (accept("(")) {  // of a call
      a.kind = Arg::kVector;
      while (!accept(")")) {
        a.items.push_back(argument());
        accept(",");
      }
      return a;
    }
    if (peek().kind == Token::kNumber) return number();
    const std::string name = word();
    if (name == "_") {
      if (accept("|")) a.second = std::make_shared<Arg>(argument());
      return a;
    }
    a.name = name;
    a.reg = find_register(name);
    a.kind = a.reg >= 0 ? Arg::kRegister : name[0] == '%' ? Arg::kSpecial : Arg::kSymbol;
    if (a.kind == Arg::kSymbol && accept("+")) a.integer = integer();
    if (accept("|")) a.second = std::make_shared<Arg>(argument());
    return a;
  }
  Arg address() {
    Arg a;
    a.kind = Arg::kAddress;
    if (peek().kind == Token::kNumber || is("-")) {
      a.integer = integer();
    } else {
      a.name = word();
      a.reg = find_register(a.name);
      if (a.reg < 0 && a.name[0] == '%') fail("unknown register '" + a.name + "'");
      if (accept("+")) {
        a.integer = integer();
      } else if (is("-")) {
        a.integer = integer();
      }
    }
    while (accept(",")) a.items.push_back(argument());
    expect("]");
    return a;
  }

  Text& text_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  bool extern_ = false;
  std::vector<std::map<std::string, int>> scopes_;
};

}  // namespace

std::unique_ptr<Text> parse_text(const std::string& source, const std::string& name) {
  auto text = std::make_unique<Text>();
  text->name = name;
  std::stringstream lines(source.substr(0, source.find('\0')));
  for (std::string line; std::getline(lines, line);) text->lines.push_back(line);
  Parser(*text, source.substr(0, source.find('\0'))).module();
  for (const Variable& v : text->variables) text->by_name[v.name] = &v;
  return text;
}

}  // namespace ptx

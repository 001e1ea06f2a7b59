#include "lexer.h"

#include <cctype>

namespace ptx {
namespace {

bool starts_word(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' || c == '.';
}
bool in_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '.';
}

}  // namespace

std::vector<Token> tokens(const Text& text, const std::string& s) {
  std::vector<Token> out;
  int line = 1;
  size_t i = 0;
  while (i < s.size()) {
    const char c = s[i];
    if (c == '\n') {
      ++line, ++i;
    } else if (std::isspace(static_cast<unsigned char>(c))) {
      ++i;
    } else if (c == '/' && i + 1 < s.size() && s[i + 1] == '/') {
      while (i < s.size() && s[i] != '\n') ++i;
    } else if (c == '/' && i + 1 < s.size() && s[i + 1] == '*') {
      const size_t end = s.find("*/", i + 2);
      if (end == std::string::npos) fail_at(text, line, "comment without end");
      for (; i < end + 2; ++i) line += s[i] == '\n';
    } else if (c == '"') {
      const size_t end = s.find('"', i + 1);
      if (end == std::string::npos) fail_at(text, line, "string without end");
      out.push_back({Token::kString, s.substr(i + 1, end - i - 1), line});
      i = end + 1;
    } else if (std::isdigit(static_cast<unsigned char>(c))) {
      const size_t begin = i;
      const bool hex =
          c == '0' && i + 1 < s.size() && std::string("xXfFdD").find(s[i + 1]) != std::string::npos;
      while (i < s.size() &&
             (std::isalnum(static_cast<unsigned char>(s[i])) || s[i] == '.' ||
              (!hex && (s[i] == '+' || s[i] == '-') && (s[i - 1] == 'e' || s[i - 1] == 'E')))) {
        ++i;
      }
      out.push_back({Token::kNumber, s.substr(begin, i - begin), line});
    } else if (starts_word(c)) {
      const size_t begin = i++;
      while (i < s.size()) {
        if (in_word(s[i])) {
          ++i;
        } else if (s.compare(i, 2, "::") == 0 && i + 2 < s.size() && in_word(s[i + 2])) {
          i += 2;  // shared::cta
        } else {
          break;
        }
      }
      out.push_back({Token::kWord, s.substr(begin, i - begin), line});
    } else {
      out.push_back({Token::kMark, std::string(1, c), line});
      ++i;
    }
  }
  out.push_back({Token::kEnd, "", line});
  return out;
}

}  // namespace ptx

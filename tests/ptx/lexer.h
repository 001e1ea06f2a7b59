// lexer.h: the tokens of a PTX text
#pragma once
#include <string>
#include <vector>

#include "text.h"

namespace ptx {

struct Token {
  enum Kind : uint8_t { kWord, kNumber, kString, kMark, kEnd };
  Kind kind = kEnd;
  std::string text;
  int line = 0;
};

std::vector<Token> tokens(const Text& text, const std::string& source);

}  // namespace ptx

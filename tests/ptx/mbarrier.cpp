// mbarrier.cpp: stub
#include "bulk.h"
#include "decode.h"
namespace ptx {
void decode_proxy_fence(Form& form, Instr&) { form.unknown(); }
void decode_bulk(Form& form, Instr&) { form.unknown(); }
bool AsyncState::land(Block&) { return false; }
void add_mbarrier(std::map<std::string, Decode>&) {}
void add_products(std::map<std::string, Decode>&) {}
}

// pyconvnet.ops.optim below Python: SGD with momentum.
#include "optim/optim.h"

#include "array.h"

namespace pcn::bind {

void register_optim(py::module_& m) {
  py::class_<SgdShape>(m, "SgdShape", py::module_local())
      .def(py::init([](std::int64_t count, int segments) {
             elements("SgdShape", {count});
             elements("SgdShape", {segments});
             return SgdShape{count, segments};
           }),
           py::kw_only(), py::arg("count"), py::arg("segments"));
  def_table(m, "sgd_momentum", sgd_momentum_kernels);
  m.def("sgd_momentum",
        [](const std::string& kernel, const SgdShape& shape, py::object w, py::object v, py::object w_bf16,
           py::object step, py::object g, py::object hyper, py::object ends, py::object lr_mult,
           py::object weight_decay, std::uintptr_t stream) {
          Args args("sgd_momentum");
          float* w_ = args.out<float>(w, "w", shape.count);
          float* v_ = args.out<float>(v, "v", shape.count);
          Bf16* w_bf16_ = args.optional_out<Bf16>(w_bf16, "w_bf16", shape.count);
          std::int64_t* step_ = args.optional_out<std::int64_t>(step, "step", 1);
          const float* g_ = args.in<float>(g, "g", shape.count);
          const float* hyper_ = args.in<float>(hyper, "hyper", 2);
          const std::int64_t* ends_ = args.in<std::int64_t>(ends, "ends", shape.segments);
          const float* lr_mult_ = args.in<float>(lr_mult, "lr_mult", shape.segments);
          const float* weight_decay_ = args.in<float>(weight_decay, "weight_decay", shape.segments);
          const SgdMomentumRow& row = row_of("sgd_momentum", sgd_momentum_kernels(), kernel, shape);
          run(row.name, [&] {
            return row.launch(w_, v_, w_bf16_, step_, g_, hyper_, ends_, lr_mult_, weight_decay_, shape,
                              stream_of(stream));
          });
        });
}

}  // namespace pcn::bind

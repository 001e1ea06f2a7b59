// pyconvnet.ops.loss below Python: softmax, and softmax with cross-entropy.
#include "loss/loss.h"

#include "array.h"

namespace pcn::bind {

namespace {

template <class T>
void softmax(const std::string& kernel, const LossShape& shape, py::object y, py::object logits,
             std::uintptr_t stream) {
  Args args("softmax");
  const std::int64_t count = elements("softmax", {shape.examples, shape.classes});
  T* y_ = args.out<T>(y, "out", count);
  const T* logits_ = args.in<T>(logits, "logits", count);
  const SoftmaxRow<T>& row = row_of("softmax", softmax_kernels<T>(), kernel, shape);
  run(row.name, [&] { return row.launch(y_, logits_, shape, stream_of(stream)); });
}

template <class T>
void softmax_cross_entropy(const std::string& kernel, const LossShape& shape, py::object loss,
                           py::object dlogits, py::object metrics, py::object logits, py::object labels,
                           py::object weights, int topk, float grad_scale, py::object workspace,
                           std::uintptr_t stream) {
  Args args("softmax_cross_entropy");
  const std::int64_t count = elements("softmax_cross_entropy", {shape.examples, shape.classes});
  float* loss_ = args.out<float>(loss, "loss", 1);
  T* dlogits_ = args.out<T>(dlogits, "dlogits", count);
  double* metrics_ = args.optional_out<double>(metrics, "metrics", 4);
  const T* logits_ = args.in<T>(logits, "logits", count);
  const std::int32_t* labels_ = args.in<std::int32_t>(labels, "labels", shape.examples);
  const float* weights_ = args.optional_in<float>(weights, "class_weights", shape.classes);
  const SoftmaxCrossEntropyRow<T>& row =
      row_of("softmax_cross_entropy", softmax_cross_entropy_kernels<T>(), kernel, shape);
  void* workspace_ = args.workspace(workspace, row.workspace_bytes(shape));
  run(row.name, [&] {
    return row.launch(loss_, dlogits_, metrics_, logits_, labels_, weights_, topk, grad_scale, shape,
                      workspace_, stream_of(stream));
  });
}

}  // namespace

void register_loss(py::module_& m) {
  py::class_<LossShape>(m, "LossShape", py::module_local())
      .def(py::init([](int examples, int classes) {
             elements("LossShape", {examples, classes});
             return LossShape{examples, classes};
           }),
           py::kw_only(), py::arg("examples"), py::arg("classes"))
      .def_property_readonly("key", [](const LossShape& s) {
        return "n=" + std::to_string(s.examples) + " classes=" + std::to_string(s.classes);
      });
  def_table(m, "softmax", softmax_kernels<float>);
  m.def("softmax", [](const std::string& kernel, const LossShape& shape, py::object y, py::object logits,
                      std::uintptr_t stream) {
    (Args::is<Bf16>(logits) ? softmax<Bf16> : softmax<float>)(kernel, shape, y, logits, stream);
  });
  def_table(m, "softmax_cross_entropy", softmax_cross_entropy_kernels<float>);
  m.def("softmax_cross_entropy",
        [](const std::string& kernel, const LossShape& shape, py::object loss, py::object dlogits,
           py::object metrics, py::object logits, py::object labels, py::object weights, int topk,
           float grad_scale, py::object workspace, std::uintptr_t stream) {
          (Args::is<Bf16>(logits) ? softmax_cross_entropy<Bf16>
                                  : softmax_cross_entropy<float>)(kernel, shape, loss, dlogits, metrics,
                                                                  logits, labels, weights, topk, grad_scale,
                                                                  workspace, stream);
        });
}

}  // namespace pcn::bind

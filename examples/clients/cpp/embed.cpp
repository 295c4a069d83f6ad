// Embeds aligned faces with onnxruntime's C++ interface:  embed MODEL.onnx FACES.rgb EMBEDDINGS.f32
//
// FACES.rgb has the pixels of faces one behind the other (S x S x 3 bytes each, RGB), as any library that reads pictures
// gives them; what is written are D numbers (float32) for each. A last line says how many faces a second of the processor.
#include <cstdint>
#include <ctime>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

#include <onnxruntime_cxx_api.h>

const float MEAN = 127.5f, STD = 127.5f;  // those of the network: `facekd describe model.onnx` prints them

// Returns the embedding of one face, S x S x 3 bytes in RGB.
std::vector<float> embed(Ort::Session& session, const uint8_t* face) {
  auto info = session.GetInputTypeInfo(0);
  auto tensor = info.GetTensorTypeAndShapeInfo();
  auto shape = tensor.GetShape();  // (N, 3, S, S), or (N, S, S, 3) of a file that takes pixels
  const bool is_last = shape[3] == 3;
  const int64_t pixels = shape[2] * shape[2];
  const bool takes_bytes = tensor.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  shape[0] = 1;

  // Channels first, and normalised, unless the graph does it.
  std::vector<float> values(3 * pixels);
  std::vector<uint8_t> bytes(3 * pixels);
  for (int64_t pixel = 0; pixel < pixels; pixel++)
    for (int channel = 0; channel < 3; channel++) {
      const int64_t to = is_last ? 3 * pixel + channel : channel * pixels + pixel;
      bytes[to] = face[3 * pixel + channel];
      values[to] = (bytes[to] - MEAN) / STD;
    }

  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto images = takes_bytes
      ? Ort::Value::CreateTensor<uint8_t>(memory, bytes.data(), bytes.size(), shape.data(), shape.size())
      : Ort::Value::CreateTensor<float>(memory, values.data(), values.size(), shape.data(), shape.size());
  const char *inputs[] = {"images"}, *outputs[] = {"embedding"};
  auto found = session.Run(Ort::RunOptions{}, inputs, &images, 1, outputs, 1);
  const float* first = found[0].GetTensorData<float>();
  return {first, first + found[0].GetTensorTypeAndShapeInfo().GetElementCount()};
}

int main(int argc, char** argv) {
  if (argc != 4) return std::cerr << "usage: embed MODEL.onnx FACES.rgb EMBEDDINGS.f32\n", 2;
  try {
    Ort::Env environment(ORT_LOGGING_LEVEL_WARNING);
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    Ort::Session session(environment, argv[1], options);
    const int64_t size = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape()[2];
    std::ifstream source(argv[2], std::ios::binary);
    std::vector<uint8_t> faces{std::istreambuf_iterator<char>(source), {}};
    std::ofstream target(argv[3], std::ios::binary);
    const std::clock_t start = std::clock();
    const size_t count = faces.size() / (3 * size * size);
    for (size_t number = 0; number < count; number++) {
      const auto embedding = embed(session, &faces[number * 3 * size * size]);
      target.write(reinterpret_cast<const char*>(embedding.data()), embedding.size() * sizeof(float));
    }
    std::cout << count * double(CLOCKS_PER_SEC) / (std::clock() - start) << "\n";
    return target && count ? 0 : 1;
  } catch (const Ort::Exception& error) {
    return std::cerr << argv[1] << ": " << error.what() << "\n", 1;
  }
}

// The networks of the comparison in RTNeural, sized at compile time, behind a C interface.
//
// Compiled once for each way to build RTNeural; the build script defines VARIANT, which is part of the one name exported,
// RTNEURAL_NAMESPACE to match, and what chooses RTNeural's backend.

#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include <RTNeural.h>

// What src/bin/policy/rtneural.rs sees of a loaded network, field by field.
extern "C" struct Loaded {
    void (*call)(Loaded*);
    void (*restart)(Loaded*);
    void (*free)(Loaded*);
    const float* output;
    std::size_t outputs;
};

namespace VARIANT {

using namespace RTNEURAL_NAMESPACE;

// Parameters in PyTorch's order, taken one after the other.
class Weights {
public:
    Weights(const float* values, std::size_t count) : next(values), left(count) {}

    std::vector<float> vector(std::size_t length) {
        if (length > left) {
            throw std::string("too few weights");
        }
        std::vector<float> taken(next, next + length);
        next += length;
        left -= length;
        return taken;
    }

    std::vector<std::vector<float>> matrix(std::size_t rows, std::size_t columns) {
        std::vector<std::vector<float>> taken;
        for (std::size_t row = 0; row < rows; ++row) {
            taken.push_back(vector(columns));
        }
        return taken;
    }

    bool empty() const { return left == 0; }

private:
    const float* next;
    std::size_t left;
};

std::vector<std::vector<float>> transposed(const std::vector<std::vector<float>>& matrix) {
    std::vector<std::vector<float>> result(matrix[0].size(), std::vector<float>(matrix.size()));
    for (std::size_t row = 0; row < matrix.size(); ++row) {
        for (std::size_t column = 0; column < matrix[row].size(); ++column) {
            result[column][row] = matrix[row][column];
        }
    }
    return result;
}

template <typename Layer>
void fill_dense(Layer& layer, Weights& weights) {
    layer.setWeights(weights.matrix(Layer::out_size, Layer::in_size));
    layer.setBias(weights.vector(Layer::out_size).data());
}

// RTNeural takes PyTorch's gate order, transposed, and one bias.
template <typename Layer>
void fill_lstm(Layer& layer, Weights& weights) {
    layer.setWVals(transposed(weights.matrix(4 * Layer::out_size, Layer::in_size)));
    layer.setUVals(transposed(weights.matrix(4 * Layer::out_size, Layer::out_size)));
    std::vector<float> bias = weights.vector(4 * Layer::out_size);
    const std::vector<float> recurrent = weights.vector(4 * Layer::out_size);
    for (std::size_t i = 0; i < bias.size(); ++i) {
        bias[i] += recurrent[i];
    }
    layer.setBVals(bias);
}

// A model of RTNeural's with its inputs in place; a call takes STEPS of them, from the state before or, where there are
// several, from zeros.
template <typename Model, int STEPS>
struct Network : Loaded {
    Model model;
    alignas(64) float input[STEPS * Model::input_size];

    static void run(Loaded* loaded) {
        Network& network = *static_cast<Network*>(loaded);
        if constexpr (STEPS > 1) {
            network.model.reset();
        }
        for (int step = 0; step < STEPS; ++step) {
            network.model.forward(network.input + step * Model::input_size);
        }
    }

    static void reset(Loaded* loaded) { static_cast<Network*>(loaded)->model.reset(); }

    static void drop(Loaded* loaded) { delete static_cast<Network*>(loaded); }

    // The inputs may be followed by a state, which RTNeural has no way to take.
    void place(const float* inputs, std::size_t count) {
        if (count * sizeof(float) < sizeof(input)) {
            throw std::string("too few inputs");
        }
        std::memcpy(input, inputs, sizeof(input));
        call = run;
        restart = reset;
        free = drop;
        output = model.getOutputs();
        outputs = Model::output_size;
        model.reset();
    }
};

template <int IN, int HIDDEN, int OUT, typename Activation>
Loaded* mlp(Weights& weights, const float* inputs, std::size_t count) {
    using Model = ModelT<float, IN, OUT, DenseT<float, IN, HIDDEN>, Activation, DenseT<float, HIDDEN, HIDDEN>,
                         Activation, DenseT<float, HIDDEN, OUT>>;
    auto* network = new Network<Model, 1>;
    fill_dense(network->model.template get<0>(), weights);
    fill_dense(network->model.template get<2>(), weights);
    fill_dense(network->model.template get<4>(), weights);
    network->place(inputs, count);
    return network;
}

template <int IN, int HIDDEN, int STEPS>
Loaded* lstm(Weights& weights, const float* inputs, std::size_t count) {
    using Model = ModelT<float, IN, HIDDEN, LSTMLayerT<float, IN, HIDDEN>>;
    auto* network = new Network<Model, STEPS>;
    fill_lstm(network->model.template get<0>(), weights);
    network->place(inputs, count);
    return network;
}

Loaded* load(const std::string& name, Weights& weights, const float* inputs, std::size_t count) {
    if (name == "mlp-32-64-64-3-tanh") {
        return mlp<32, 64, 3, TanhActivationT<float, 64>>(weights, inputs, count);
    }
    if (name == "mlp-128-256-256-3-relu") {
        return mlp<128, 256, 3, ReLuActivationT<float, 256>>(weights, inputs, count);
    }
    if (name == "lstm-32-64-step") {
        return lstm<32, 64, 1>(weights, inputs, count);
    }
    if (name == "lstm-32-256-step") {
        return lstm<32, 256, 1>(weights, inputs, count);
    }
    if (name == "lstm-32-64-window-20") {
        return lstm<32, 64, 20>(weights, inputs, count);
    }
    throw "no network " + name;
}

} // namespace VARIANT

#define JOINED(a, b) a##b
#define EXPORTED(variant) JOINED(rtneural_load_, variant)

// Null if there is no such network, or if the weights do not fit it.
extern "C" Loaded* EXPORTED(VARIANT)(const char* name, const float* weights, std::size_t weight_count,
                                     const float* inputs, std::size_t input_count) {
    try {
        VARIANT::Weights given(weights, weight_count);
        Loaded* loaded = VARIANT::load(name, given, inputs, input_count);
        if (!given.empty()) {
            loaded->free(loaded);
            return nullptr;
        }
        return loaded;
    } catch (const std::string&) {
        return nullptr;
    }
}

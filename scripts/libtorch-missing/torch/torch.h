// Found by the compiler only where the real header is not: .cargo/config.toml names this directory as the last place
// to look, and the bindings include torch/torch.h first of all. An #error would be buried under those that follow
// from it; a header that cannot be opened stops the compiler at once.
#include <libtorch is missing: run scripts/libtorch.sh once and build again>

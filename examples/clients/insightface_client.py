"""Embeds aligned faces with the package insightface, which takes a network of mean and std 127.5."""

from insightface.model_zoo import get_model


def open_model(path, **options):
    """Returns a function from faces, uint8 RGB (N, 112, 112, 3), to embeddings, float32 (N, D)."""
    model = get_model(path, providers=["CPUExecutionProvider"], **options)

    def embed(faces):
        return model.get_feat([face[..., ::-1] for face in faces])  # it takes BGR, as OpenCV reads images

    return embed

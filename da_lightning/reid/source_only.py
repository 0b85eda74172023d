"""Training on the source's persons alone, IDE: what every adaptation method is measured against."""

from typing import Any, Literal

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from da_lightning.arguments import Share
from da_lightning.errors import UserError
from da_lightning.reid.module import ReidModule
from da_lightning.reid.networks.heads import Embedding
from da_lightning.training.players import Backward, Batch, Step, Term, Updates


class ReidSourceOnly(ReidModule):
    """ID-discriminative embedding: the source's persons as classes; the target is not looked at.

    With the target's labelled images given as the source it is the oracle.

    Args:
        head: What lies between the pooled features and the classifier. ``embedding``: a smaller embedding with batch
            norm, leaky ReLU and dropout (IDE+); ``batch_norm``: batch norm alone, and a classifier without bias;
            ``null``: nothing (IDE in Caffe).
        embedding_size: Of the embedding.
        dropout: After the embedding, or before the classifier where there is none.
        feature: Test feature: ``pool5``, or ``embedding``, what the head's batch norm gives.
        options: See :class:`~da_lightning.reid.module.ReidModule`.
    """

    def __init__(
        self,
        head: Literal["embedding", "batch_norm"] | None = "embedding",
        embedding_size: PositiveInt = 512,
        dropout: Share = 0.5,
        feature: Literal["pool5", "embedding"] = "pool5",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        if feature == "embedding" and (head is None or self.stripes is not None):
            raise UserError(
                "method.feature=embedding needs a method.head and excludes method.stripes: add method.feature=pool5."
            )
        self.head, self.feature, self.dropout = head, feature, dropout
        size = embedding_size if head == "embedding" else self.backbone.channels
        self.embedding: nn.Module = nn.Identity()
        if head == "embedding":
            self.embedding = Embedding(self.backbone.channels, size)
        elif head == "batch_norm":
            self.embedding = nn.BatchNorm1d(size)
        self.add_classifier(size, bias=head != "batch_norm")

    def describe(self, image: Tensor) -> Tensor:
        if self.feature == "pool5":
            return super().describe(image)
        return self.tested("embedding")(self.pooled(image, self.tested("backbone")))

    def updates(self, batch: Batch) -> Updates:
        source = batch["source"]
        features = self.embedding(self.pooled(source["image"]))
        if self.head == "embedding":
            features = F.leaky_relu(features, 0.1)
        logits = self.classifier(F.dropout(features, self.dropout, self.training))
        yield Backward("embedder", {"identification": Term(self.identification(logits, source["person"]))})
        yield Step("embedder")

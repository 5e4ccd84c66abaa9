from .mteb import MtebEncoder as MtebEncoder
from .sentences import SentenceTransformers as SentenceTransformers
from .serving import Vllm as Vllm
from .write import export as export

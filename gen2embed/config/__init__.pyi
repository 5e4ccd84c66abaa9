from .presets import compose_shipped as compose_shipped
from .presets import conf_dir as conf_dir
from .presets import load_preset as load_preset
from .renamed import translate as translate
from .schema import check as check
from .schema import make as make
from .schema import make_saved as make_saved
from .targets import find_target as find_target
